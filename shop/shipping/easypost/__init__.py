"""EasyPost as a carrier."""
