"""Shipping: carriers, tracking numbers, and labels."""
