"""Inventory: a port with two adapters, our own tables and an inventory service."""
