"""Sandbox payment gateway for development and tests: a separate process with its own ledger."""
