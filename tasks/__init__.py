"""The steps of the order saga: one file for each, the task and its compensation side by side."""

from tasks import secret_blocks  # noqa: F401  (settings may name them)
