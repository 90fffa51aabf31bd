"""The `/metrics` endpoint for Prometheus: counters that survive restarts, current values, and the process
that answers."""
