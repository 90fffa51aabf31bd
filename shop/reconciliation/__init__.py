"""Reconciliation: compares payments with orders, in both directions, and the stock with its movements."""
