"""Names made of order ids: safe as a file's name, as an idempotency key and as a run's name, and never the same for two orders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.names import MAX_ORDER_ID, file_stem, key, run_name
from shop.payments.sandbox.ledger import MAX_ORDER_ID as GATEWAY_MAX

relaxed = hypothesis_settings(deadline=None)
# What `take_in` lets through as an id: no control characters, no surrogates, nothing at the ends that is stripped.
ids = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=MAX_ORDER_ID).filter(
    lambda text: text == text.strip()
)
nasty = st.text(st.sampled_from([*'./\\~-_ aA:*?"<>|\n', "é", "\u0301", "字"]), min_size=1, max_size=12)
GATEWAY_KEY = re.compile(r"[!-~]{1,255}")

NASTY = [
    ".",
    "..",
    "...",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "~root",
    "-rf",
    "CON",
    "a" * 200,
    "字" * 200,
    "a b",
    " ",
    "a\x00b",
    "é",
]


@pytest.mark.parametrize("order_id", ["ORDER-1001", "a", "A.b_c-9", "0" * 80])
def test_a_plain_id_is_its_own_name(order_id: str) -> None:
    assert file_stem(order_id) == order_id


@pytest.mark.parametrize("order_id", NASTY)
def test_nasty_ids(order_id: str) -> None:
    check_stem(order_id)


@relaxed
@given(st.one_of(ids, nasty))
def test_any_id_gives_a_safe_file_name(order_id: str) -> None:
    check_stem(order_id)


def check_stem(order_id: str) -> None:
    stem = file_stem(order_id)
    assert 1 <= len(stem) <= 80
    assert re.fullmatch(r"[A-Za-z0-9~_-][A-Za-z0-9._~-]*", stem), stem
    assert ".." not in stem
    assert Path("folder", f"{stem}.eml").parent == Path("folder")
    assert Path("folder", f"{stem}.eml").resolve().parent == Path("folder").resolve()
    assert file_stem(order_id) == stem


@relaxed
@given(st.one_of(ids, nasty), st.one_of(ids, nasty))
@example("a/b", "a\\b")
@example("a b", "a-b")
@example("a" * 81, "a" * 82)
@example("é", "e\u0301")
@example("A", "a")
def test_two_ids_never_share_a_name(one: str, other: str) -> None:
    assume(one != other)
    assert file_stem(one) != file_stem(other)
    assert key(one, "confirm") != key(other, "confirm")


@relaxed
@given(ids)
def test_nobody_can_choose_an_id_that_is_anothers_name(order_id: str) -> None:
    stem = file_stem(order_id)
    assert stem == order_id or file_stem(stem) != stem


@relaxed
@given(st.one_of(ids, nasty), st.sampled_from(["create", "confirm", f"cancel-{'p' * 100}", f"refund-{'p' * 100}"]))
def test_keys_are_what_gateways_take(order_id: str, step: str) -> None:
    assert GATEWAY_KEY.fullmatch(key(order_id, step))
    assert key(order_id, step) == key(order_id, step)


def test_steps_of_an_order_have_keys_of_their_own() -> None:
    keys = {key(order_id, step) for order_id in ("A", "A-confirm", "confirm-A") for step in ("create", "confirm", "refund-p")}
    assert len(keys) == 9


def test_an_id_that_we_take_is_one_that_the_gateway_takes() -> None:
    assert MAX_ORDER_ID <= GATEWAY_MAX


@relaxed
@given(st.one_of(st.none(), st.integers(), st.text(), st.dictionaries(st.just("id"), st.one_of(st.none(), st.integers(), st.text()))))
def test_any_order_gives_a_run_a_name_of_one_line(order: object) -> None:
    name = run_name("order", order)
    assert name.startswith("order ")
    assert len(name) <= 120
    assert len(name.splitlines()) == 1
    name.encode()


def test_a_run_is_named_after_its_order() -> None:
    assert run_name("order", {"id": "ORDER-1001"}) == "order ORDER-1001"
    assert run_name("order", {"id": 7}) == "order 7"
    assert run_name("order", {}) == "order without an id"
