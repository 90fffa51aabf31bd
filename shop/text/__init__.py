"""Sanitises external text: control characters, card numbers, customer data, domains."""
