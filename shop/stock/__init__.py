"""Inventory, wherever it is: in our own tables, or a service of its own."""
