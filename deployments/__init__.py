"""Serving, deploying and triggering the saga."""

import tasks  # noqa: F401  (settings may name Secret blocks, which it reads)
