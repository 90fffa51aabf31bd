"""What Prometheus reads at `/metrics`: totals that survive restarts, what is so now, and the process that is asked."""
