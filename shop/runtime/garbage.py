"""Garbage collector tuning for bulk work."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reduced_garbage_collection() -> Iterator[None]:
    """Excludes existing objects from garbage collection, and collects less often: with the default settings,
    garbage collection takes a fifth of a consumer's time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
