"""Value types: money and countries."""
