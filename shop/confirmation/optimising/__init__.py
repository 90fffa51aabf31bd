"""Making the language model's program better: invented orders, a metric, optimisers, and a comparison on orders it has not seen."""
