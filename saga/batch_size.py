"""The size of a consumer's batches, from how long they take."""

from __future__ import annotations

_BATCH_SECONDS = 5.0
"""How long a batch should take at most. While an external system is slow, smaller batches leave waiting
instances to other consumers, and instances reach their outcomes sooner."""
_FIRST = 100
"""How many instances a consumer claims before it knows how long a batch takes."""
_LEAST = 16
_LARGEST_GROWTH = 10


class BatchSize:
    """Starts small, grows while batches are fast, and shrinks when one was slow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = min(_FIRST, most)
        self._claimed, self._is_known = 0, False

    @property
    def is_probing(self) -> bool:
        """Whether the first batches still run, so that it is not known how long one takes."""
        return not self._is_known and self._claimed >= self.size

    def claimed(self, number: int) -> None:
        self._claimed += number

    def ended(self, number: int, seconds: float) -> None:
        """Adapts the size to how long a batch of this many instances took."""
        self._is_known = True
        if seconds > _BATCH_SECONDS:  # half of it, so that consumers end at about the same time
            fitting = int(number * _BATCH_SECONDS / seconds / 2)
            self.size = max(min(_LEAST, self._most), min(self.size, fitting))
        elif number * 2 >= self.size:
            growth = min(_LARGEST_GROWTH, _BATCH_SECONDS / max(seconds, 0.001))
            self.size = max(self.size, min(self._most, int(number * growth)))
