"""EasyPost carrier integration."""
