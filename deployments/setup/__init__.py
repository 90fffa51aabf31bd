"""Puts on a Prefect server what the saga needs there, or compares it: `order-saga setup`."""
