"""Optimises the language model's program: examples, a metric, and one run of an optimiser."""
