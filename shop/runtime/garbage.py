"""Less garbage collection, where much is loaded and much is made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def little_garbage_collection() -> Iterator[None]:
    """What is loaded stays; looking through it again and again for garbage costs a fifth of a consumer's time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
