"""Serving, deploying and triggering the saga."""

from tasks import secret_blocks  # noqa: F401  (settings may name them)
