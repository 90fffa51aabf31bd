"""Checks the shop's external connections: which are real, embedded, or misconfigured."""
