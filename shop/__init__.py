"""The domain: orders, money, stock. Imports nothing of Prefect."""
