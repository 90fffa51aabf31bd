"""Orders: the model, validation, intake, status and report, and the saga engine's hooks for orders."""
