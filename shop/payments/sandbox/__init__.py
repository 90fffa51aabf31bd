"""The sandbox gateway: an outside world for development and tests, a process of its own with a ledger of its own."""
