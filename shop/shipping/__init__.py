"""Shipping: the carrier, its tracking numbers, and the label on the parcel."""
