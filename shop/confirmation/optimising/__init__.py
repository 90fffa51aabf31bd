"""Makes the language model's program better, if it can: examples, a metric, and one run of an optimiser."""
