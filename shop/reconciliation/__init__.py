"""Reconciliation: compares the gateway's payments with the orders, in both directions, and the stock with
its movements."""
