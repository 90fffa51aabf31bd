"""How histories are drawn: each number as likely as the next.

Hypothesis's own way favours small and special numbers, and runs most examples several times with parts of them repeated. That finds
mistakes in code about data; here it would run the same interleaving again and again. What fails is shrunk as usual.
"""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

EVENLY = "evenly"


class _Evenly(HypothesisProvider):
    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        if min_value is None or max_value is None or weights or self._random is None:
            return super().draw_integer(min_value, max_value, weights=weights, shrink_towards=shrink_towards)
        return self._random.randint(min_value, max_value)

    def draw_bytes(self, min_size: int = 0, max_size: int = 64) -> bytes:
        if self._random is None:
            return super().draw_bytes(min_size, max_size)
        return self._random.randbytes(self._random.randint(min_size, max_size))


AVAILABLE_PROVIDERS[EVENLY] = _Evenly
