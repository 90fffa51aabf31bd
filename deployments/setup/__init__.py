"""Registers on a Prefect server what the saga needs, or compares it: `order-saga setup`."""
