"""Sagas beside the shop, on the same engine."""
