"""The desk: what a person decides. Orders that could not be undone, and orders that are no longer wanted."""
