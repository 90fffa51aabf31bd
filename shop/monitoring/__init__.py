"""Monitoring: configuration, log lines, and metrics of any window, read from the journal."""
