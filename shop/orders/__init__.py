"""Orders: the model, validation, intake, where each stands, and what an order adds to the saga engine."""
