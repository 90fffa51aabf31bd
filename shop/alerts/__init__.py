"""Alerts: what a person should look at, judged from the journal."""
