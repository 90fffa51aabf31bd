"""Prepares a database and a Prefect server for the saga, or compares them: `order-saga setup`."""
