"""`order-saga review` without a Prefect server:
many orders whose refunds the gateway refuses, checked against its ledger."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from deployments.local.programs import Sandbox
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.reconciliation.books import read_books
from tests.integration.test_manual_review import PRICE
from tests.integration.world import World, an_order

NOWHERE = "http://127.0.0.1:1/api"
Command = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture(autouse=True)
def behave(sandbox: Sandbox) -> Iterator[None]:
    """Resets the gateway's behaviour after each test."""
    yield
    httpx.post(
        f"{sandbox.url}/sandbox/behaviour", json={"take_refunds": False, "error_rate": 0}, timeout=10
    ).raise_for_status()


@pytest.fixture
def review(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `order-saga review` without a Prefect server.
    Returns its exit code, and what it said on one line."""

    async def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with environment({"PREFECT_API_URL": NOWHERE}):
            code = await asyncio.to_thread(order_saga, ["review", *arguments])
        return code, " ".join("".join(capsys.readouterr()).split())

    return run


def state(saga: World) -> dict[str, Any]:
    """All that a decision could change, and the gateway's ledger."""
    tables = ("customer_order", "order_step", "attention", "desk_entry", "outbox", "product", "reservation")
    rows = {
        table: saga.sql(f"SELECT to_jsonb(t) FROM {table} t ORDER BY to_jsonb(t)::text") for table in tables
    }
    ids = [row[0] for row in saga.sql("SELECT id FROM customer_order ORDER BY id")]
    return {**rows, "ledger": {order_id: saga.ledger(order_id) for order_id in ids}}


async def many(saga: World, unique: str, count: int) -> list[str]:
    """Orders that were charged, cannot be shipped, and whose refunds the gateway refuses."""
    order_ids = [f"NIGHT-{unique}-{number:03}" for number in range(count)]
    intake.submit([an_order(order_id, card="0259", country="AQ") for order_id in order_ids])
    await process_pending_orders(consumer_seconds=0)
    assert {saga.order(order_id).outcome for order_id in order_ids} == {Outcome.NEEDS_ATTENTION}
    assert all(saga.money(order_id) == (PRICE, 0) for order_id in order_ids)
    return order_ids


@pytest.mark.slow
async def test_retry_of_all_refunds_each_once_and_does_not_change_the_stock(
    saga: World, unique: str, review: Command
) -> None:
    stock = saga.stock("PROD-001")
    order_ids = await many(saga, unique, 30)
    code, output = await review("list")
    assert (code, "at risk: 29,999.70 USD" in output) == (0, True)
    code, output = await review("list", "--json")
    assert (code, output.count('"amount_at_risk":"999.99"')) == (0, 30)
    assert saga.stock("PROD-001") == stock
    saga.misbehave(take_refunds=True)

    before = state(saga)
    code, output = await review(
        "retry", "--all", "--by", "ann", "--reason", "the gateway takes refunds again", "--dry-run"
    )
    assert code == 0
    assert all(order_id in output for order_id in order_ids)
    assert "30 reopened" in output
    assert "nothing was changed" in output
    assert state(saga) == before

    code, output = await review(
        "retry", "--all", "--by", "ann", "--reason", "the gateway takes refunds again"
    )
    assert code == 0
    assert "30 reopened" in output
    assert "29,999.70 USD" in output
    assert "worker" in output, "that somebody has to take them up"
    for order_id in order_ids:
        assert saga.order(order_id).outcome is None
        assert saga.money(order_id) == (PRICE, 0), "the command itself moves no money"
        ((action, by, started_by, reason),) = saga.sql(
            'SELECT action, "by", started_by, reason FROM desk_entry WHERE order_id = :id', id=order_id
        )
        assert (action, by, reason) == ("retry_now", "ann", "the gateway takes refunds again")
        assert getpass.getuser() in started_by
        assert "order-saga" in started_by

    code, output = await review("retry", *order_ids, "--by", "ann")
    assert code == 0
    assert "30 decided before" in output
    await process_pending_orders(consumer_seconds=0)
    for order_id in order_ids:
        assert saga.order(order_id).outcome == Outcome.COMPENSATED
        assert saga.money(order_id) == (PRICE, PRICE)
        assert len(saga.ledger(order_id)[0]["refunds"]) == 1
    assert saga.stock("PROD-001") == stock
    saga.assert_books_balance()
    assert await review("retry", "--all", "--by", "ann") == (0, "No order under manual review matches.")


async def test_filters_choose_and_held_orders_wait(saga: World, unique: str, review: Command) -> None:
    old, new, held = await many(saga, unique, 3)
    saga.sql("UPDATE attention SET since = now() - :age WHERE order_id = :id", id=old, age=timedelta(hours=3))
    code, output = await review("hold", held, "--by", "ann")
    assert (code, "1 held" in output) == (0, True)

    async def listed(*filters: str) -> list[str]:
        code, output = await review("list", "--json", *filters)
        assert code == 0
        decoder, found = json.JSONDecoder(), []
        while output:
            row, end = decoder.raw_decode(output)
            found.append(row["order_id"])
            output = output[end:].strip()
        return found

    assert await listed() == [old, new, held]
    assert await listed("--older-than", "2h") == [old]
    assert await listed("--held") == [held]
    assert await listed("--not-held") == [old, new]
    assert await listed("--currency", "EUR") == []
    assert await listed("--currency", "USD", "--code", "refund_refused", "--step", "process_payment") == [
        old,
        new,
        held,
    ]
    assert await listed("--at-least", "1000") == []
    assert await listed("--at-most", "999.99") == [old, new, held]

    saga.misbehave(take_refunds=True)
    code, output = await review("retry", "--all", "--not-held", "--older-than", "2h", "--by", "ann")
    assert (code, "1 reopened" in output) == (0, True)
    await process_pending_orders(consumer_seconds=0)
    outcomes = [saga.order(order_id).outcome for order_id in (old, new, held)]
    assert outcomes == [Outcome.COMPENSATED, Outcome.NEEDS_ATTENTION, Outcome.NEEDS_ATTENTION]
    assert [saga.money(order_id)[1] for order_id in (old, new, held)] == [PRICE, 0, 0]
    saga.assert_books_balance()


async def test_refunded_and_written_off_settle_the_money_in_the_books(
    saga: World, unique: str, review: Command
) -> None:
    first, second, third = await many(saga, unique, 3)
    before = state(saga)
    for dry_run in (["--dry-run"], []):
        code, output = await review(
            "refunded", first, second, "--by", "ann", "--reference", "bulk transfer 4711", *dry_run
        )
        assert (code, "2 refund recorded" in output) == (0, True)
        assert (state(saga) == before) == bool(dry_run)
    code, output = await review(
        "write-off", third, "--by", "bob", "--reason", "the customer does not want it back"
    )
    assert (code, "1 written off" in output) == (0, True)
    await process_pending_orders(consumer_seconds=0)
    assert {saga.order(order_id).outcome for order_id in (first, second, third)} == {Outcome.COMPENSATED}
    assert all(saga.money(order_id) == (PRICE, 0) for order_id in (first, second, third)), (
        "nothing went back through the gateway"
    )
    resolved = saga.sql(
        "SELECT resolution, amount_by_hand, amount_written_off FROM attention ORDER BY order_id"
    )
    assert resolved == [
        ("refunded_by_hand", PRICE, 0),
        ("refunded_by_hand", PRICE, 0),
        ("written_off", 0, PRICE),
    ]
    assert read_books(saga.database_url, None).balanced
    code, output = await review("write-off", first, third, "--by", "bob", "--reason", "again")
    assert code == 1
    assert "1 refused" in output
    assert "refunded_by_hand" in output, "what was decided before"
    code, output = await review("show", first)
    assert (code, "4711" in output, "by ann" in output) == (0, True, True)


async def test_money_that_the_gateway_refunded_is_not_recorded_by_hand(
    saga: World, unique: str, review: Command
) -> None:
    gone, there = await many(saga, unique, 2)
    (payment,) = saga.ledger(gone)
    saga.misbehave(take_refunds=True)
    refund = {"payment_id": payment["id"], "amount": 99999, "currency": "USD"}
    httpx.post(f"{saga.gateway_url}/v1/refunds", json=refund, timeout=10).raise_for_status()
    for dry_run in (["--dry-run"], []):
        code, output = await review("refunded", "--all", "--by", "ann", "--reference", "4711", *dry_run)
        assert code == 1
        assert "1 refused" in output
        assert "1 refund recorded" in output
        assert "refunded 999.99 USD" in output
    assert saga.sql("SELECT order_id FROM desk_entry") == [(there,)]


async def test_every_problem_is_named_and_nothing_is_done(saga: World, unique: str, review: Command) -> None:
    (order_id,) = await many(saga, unique, 1)
    await process_order(an_order(f"FINE-{unique}"), return_state=True)
    before = state(saga)
    code, output = await review(
        "refunded", order_id, "--all", "--currency", "dollars", "--older-than", "long", "--at-least", "much"
    )
    assert code == 2
    for named in ("not both", "--currency", "--older-than", "--at-least", "--by", "--reference"):
        assert named in output
    code, output = await review("retry", order_id, f"FINE-{unique}", "NOBODY", "--by", "ann")
    assert code == 2
    assert f"FINE-{unique} was never" in output
    assert "NOBODY was never" in output
    code, output = await review("write-off", order_id, "--by", "ann", "--reason", "card 4242 4242 4242 4242")
    assert code == 2
    assert "4242" not in output
    assert state(saga) == before


async def test_a_database_that_stops_answering_is_reported_with_the_progress(
    saga: World, unique: str, review: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saga.database import NotWritten
    from shop.review import resolution

    await many(saga, unique, 3)
    resolve, calls = resolution.resolve, []

    async def once(decided: Any, *, dry_run: bool) -> bool:
        calls.append(decided.order_id)
        if len(calls) > 1:
            raise NotWritten("gone")
        return await resolve(decided, dry_run=dry_run)

    monkeypatch.setattr(resolution, "resolve", once)
    code, output = await review("hold", "--all", "--by", "ann")
    assert code == 2
    assert "1 held" in output
    assert "2 were not reached" in output
    assert len(saga.sql("SELECT 1 FROM desk_entry")) == 1


async def test_the_command_that_is_shown_settles_the_amount_that_is_shown(
    saga: World, unique: str, review: Command
) -> None:
    (order_id,) = await many(saga, unique, 1)
    printed = f'order-saga review refunded {order_id} --amount "999.99 USD" --by NAME --reference R'
    for command in (["list"], ["show", order_id], ["show", order_id, "--json"]):
        code, output = await review(*command)
        assert (code, printed in output.replace("\\", "")) == (0, True)
    before = state(saga)
    how = ("--by", "ann", "--reference", "4711")
    for wrong in ("999.98", "999.99 EUR", "99999"):
        code, output = await review("refunded", order_id, "--amount", wrong, *how)
        assert (code, "999.99 USD are at risk" in output) == (1, True)
    for wrong in ("much", "", "-5", "1,2", "999.99 USD and more"):
        code, output = await review("refunded", order_id, f"--amount={wrong}", *how)
        assert (code, "--amount" in output) == (2, True)
    for several in ([order_id, order_id + "-2"], ["--all"]):
        assert (await review("refunded", *several, "--amount", "999.99", *how))[0] == 2
    assert state(saga) == before
    code, output = await review(
        "refunded", *printed.replace('"', "").split()[3:4], "--amount=999.99 USD", *how
    )
    assert (code, "1 refund recorded" in output) == (0, True)
    assert saga.sql("SELECT amount FROM desk_entry") == [(PRICE,)]


@pytest.mark.parametrize("which", ["all", "ids"])
async def test_an_order_whose_amount_changes_after_it_was_selected_is_left_out(
    saga: World, unique: str, review: Command, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    from shop.review import resolution

    first, second = await many(saga, unique, 2)
    resolve = resolution.resolve

    async def after_a_change(decided: Any, *, dry_run: bool) -> bool:
        saga.sql("UPDATE customer_order SET amount_at_risk = 1234.56 WHERE id = :id", id=second)
        return await resolve(decided, dry_run=dry_run)

    monkeypatch.setattr(resolution, "resolve", after_a_change)
    code, output = await review(
        "write-off", *(["--all"] if which == "all" else [first, second]), "--by", "ann", "--reason", "old"
    )
    assert (code, "1 written off, 1 refused" in output) == (1, True)
    assert "1,234.56 USD" in output
    assert "999.99 USD" in output
    assert saga.sql("SELECT order_id, amount FROM desk_entry") == [(first, PRICE)]
    code, output = await review("list")
    assert "at risk: 1,234.56 USD" in output
