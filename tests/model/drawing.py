"""How histories are drawn: each number as likely as the next.

Hypothesis's own way favours small and special numbers, and runs most examples several times with parts of
them repeated. That finds mistakes in code about data; here it would run the same interleaving again and
again. What fails is shrunk as usual.
"""

from __future__ import annotations

from hypothesis import HealthCheck
from hypothesis import settings as rounds
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

_EVENLY = "evenly"
SHARES = 4
"""Into which many histories are cut, so that as many cores can play them:
the same ones, on whatever machine."""


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


AVAILABLE_PROVIDERS[_EVENLY] = _Evenly

ALWAYS_THE_SAME = rounds(
    backend=_EVENLY,
    max_examples=300,
    stateful_step_count=5,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    # A history takes hundredths of a second,
    # and draws much: what these measure is PostgreSQL, and how long a history is.
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.filter_too_much,
    ],
)


def others(histories: int) -> rounds:
    """So many, with the seed that the machine was given."""
    return rounds(ALWAYS_THE_SAME, max_examples=histories, derandomize=False)
