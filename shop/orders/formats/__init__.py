"""Orders as other shop systems write them: one module per system maps them to this project's order."""
