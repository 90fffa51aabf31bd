"""What the gateway tells by itself: hints that there is something to look up there."""
