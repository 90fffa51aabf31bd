"""Reconciliation: the gateway's own list of payments against our orders, both ways, and the stock against what moved it."""
