"""Taking and giving back money through a gateway."""
