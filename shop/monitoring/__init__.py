"""How the shop is watched: configuration, log lines, and metrics that are read from the journal over any window."""
