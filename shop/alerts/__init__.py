"""Alerts: conditions that need a person, detected from the journal, and their delivery."""
