"""Values with rules of their own: money and countries."""
