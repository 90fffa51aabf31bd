"""Random orders through intake and validation,
without a database: a `Content` or a typed refusal, in bounded time, with bounded reasons.

Hypothesis prints the example that fails, and this file the seed: `FUZZ_SEED=... pytest
tests/hostile/test_intake_fuzz.py` repeats it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.orders.errors import MAX_PROBLEMS, OrderRejected, UnusableOrder
from shop.orders.intake_content import Content, take_in
from shop.orders.names import MAX_ORDER_ID
from shop.orders.order import EXAMPLE, Order
from shop.orders.validation import validate
from shop.settings import Settings

SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
LIMITS = Settings(_env_file=None)  # type: ignore[call-arg]
SECONDS = 10
"""Of processor time for one order: what hangs takes minutes, what does not milliseconds."""
MOST_REASONS = 20_000
FIELDS = [
    *Order.model_fields,
    "product_id",
    "quantity",
    "price",
    "method",
    "card_last4",
    "token",
    "country",
    "~removed",
    "cvv",
    "qty",
    "Email",
]

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [10**30, -(10**400), 10**4_000, 2**63, 1e308, -0.0, 5e-324, 4111111111111111, 4.111111111111111e15]
    ),
    st.sampled_from(
        [
            Decimal(text)
            for text in (
                "1e999999999",
                "-1e999999999",
                "1e-999999999",
                "0e99999999",
                "NaN",
                "sNaN",
                "-Infinity",
                "9" * 5_000,
            )
        ]
    ),
    st.decimals(),
)
odd = '\x00\x1b\x9b\u200b\u202e\ud800\ufeff\u3164\u0301\U0001f642٣四\n\t [removed: misnamed~\\"4111-1/_'
texts = st.one_of(
    st.text(max_size=40),
    st.text(odd, max_size=60),
    st.sampled_from(
        [
            "",
            " ",
            "USD",
            "US",
            "PROD-001",
            "1e999999999",
            "-" * 60_000,
            "1-" * 30_000,
            "a@" * 200,
            "[removed: x]",
            "4" * 3_000,
        ]
    ),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=5))
keys = st.one_of(st.sampled_from(FIELDS), st.text(max_size=20), st.integers(), st.none())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(keys, inner, max_size=6), st.tuples(inner)
    ),
    max_leaves=30,
)


@st.composite
def orders(draw: st.DrawFn) -> Any:
    """Anything; or the example with some of its parts, at any depth, replaced, repeated or removed."""
    if draw(st.integers(0, 4)) == 0:
        return draw(values)
    order: Any = copy.deepcopy(EXAMPLE)
    match draw(st.integers(0, 3)):
        case 0:
            order["items"][0][draw(st.sampled_from(["quantity", "price"]))] = draw(numbers)
        case 1:
            order["items"] = [draw(values)] * draw(st.sampled_from([1, 50, 1_100]))
    for _ in range(draw(st.integers(1, 4))):
        part = order
        while True:
            places: list[Any] = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(part[place], dict | list) and draw(st.booleans()):
                part = part[place]
                continue
            break
        else:
            continue
        match draw(st.integers(0, 4)):
            case 0 if places:
                del part[place]
            case 1 if isinstance(part, list) and part:
                part *= draw(st.sampled_from([2, 50, 1_100]))
            case 2 if isinstance(part, dict):
                part[draw(keys)] = draw(values)
            case _ if places:
                part[place] = draw(values)
    return order


class Everything:
    async def known(self, product_ids: set[str]) -> set[str]:
        return product_ids


def check(raw: Any) -> None:
    began = time.process_time()
    try:
        content = take_in(raw)
    except UnusableOrder as refused:
        reasons = refused.reasons()
    else:
        assert isinstance(content, Content)
        assert 0 < len(content.order_id) <= MAX_ORDER_ID
        content.text.encode()
        stored = json.loads(content.text)
        assert stored["id"] == content.order_id
        again = take_in(stored)
        assert (again.text, again.fingerprint) == (content.text, content.fingerprint)
        (verdict,) = asyncio.run(validate([stored], Everything(), LIMITS))
        assert isinstance(verdict, Order | OrderRejected)
        reasons = verdict.reasons() if isinstance(verdict, OrderRejected) else []
        if isinstance(verdict, OrderRejected):
            assert reasons
            assert len(json.dumps(verdict.details())) < 3 * MOST_REASONS
    assert len(reasons) <= MAX_PROBLEMS + 1
    assert sum(map(len, reasons)) <= MOST_REASONS
    assert time.process_time() - began < SECONDS


def fuzz(examples: int) -> None:
    print(f"FUZZ_SEED={SEED}")
    relaxed = hypothesis_settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    seed(SEED)(relaxed(given(orders())(check)))()


@pytest.mark.parametrize(
    "changed",
    [
        {"items": [{**EXAMPLE["items"][0], "qty": 1, "Product": "x"}] * 700},
        {"items": {"4111111111111111": "123456789012345"}},
        {"notes": {f"é{n}": n for n in range(1_500)}},
        {"notes": {f"é{n}": n for n in range(1_000)} | {"~more": "x"}},
    ],
    ids=[
        "more marks than are kept",
        "a card number as a name",
        "more entries than are kept",
        "an entry with the name of the mark",
    ],
)
def test_content_that_is_taken_in_again_is_the_same(changed: dict[str, Any]) -> None:
    check({**EXAMPLE, **changed})


def test_whatever_is_sent_is_taken_or_refused() -> None:
    fuzz(300)


@pytest.mark.slow
def test_whatever_is_sent_is_taken_or_refused_ten_thousand_times() -> None:
    fuzz(10_000)
