"""Manual review: orders that need a person, and the actions on them."""
