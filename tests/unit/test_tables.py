"""The tables of `order-saga` on narrow terminals: what fits is shown whole, and what does not is named."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from rich.console import Console, RenderableType

from deployments import terminal
from deployments.check.parts import Finding, State
from deployments.check.report import table as check_table
from deployments.cli import books, look, outcome_table, review, status
from shop.monitoring.buckets import Durations
from shop.monitoring.business import BusinessMetrics, Confirmations, Money, WaitingOrder
from shop.monitoring.commands import CompensationMetrics, EventMetrics, PayloadSizes, StepMetrics
from shop.monitoring.metrics import MachineMetrics, Metrics, ProcessMetrics, SystemMetrics
from shop.monitoring.window import Window
from shop.orders.outcomes import Compensation, OrderOutcome, Outcome
from shop.orders.search import ListedOrder
from shop.reconciliation.books import BookRow, Books
from shop.review.attention import ReviewCase

AT = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
WIDTHS = pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
STEPS = ("validate_order", "reserve_inventory", "process_payment", "write_confirmation", "create_fulfilment")
TOOK = Durations(mean_ms=118_123, p50_ms=117_234, p95_ms=119_345, p99_ms=4_219_456)
RESULTS = {
    "succeeded": 1_234_567,
    "refused": 98_765,
    "failed": 4_321,
    "success_rate": 0.923,
    "error_rate": 0.0032,
    "postponed": 1_234,
}


def rendered(shown: RenderableType, width: int) -> str:
    written = io.StringIO()
    Console(file=written, width=width).print(shown)
    return written.getvalue()


def cells(text: str) -> set[str]:
    return {cell for line in text.splitlines() for cell in re.split(r"\s{2,}|[─╶╴]+", line.strip()) if cell}


def words(text: str) -> set[str]:
    return set(re.sub(r"[─╶╴]+", " ", text).split())


def metrics() -> Metrics:
    undone = CompensationMetrics(
        commands=54_321, done=54_300, failed=21, postponed=3, retries=17, duration=TOOK
    )
    return Metrics(
        window=Window(name="the last 7 d"),
        read_at=AT,
        events=EventMetrics(
            **RESULTS,
            total_events=7_654_321,
            steps=6_543_210,
            compensations=543_211,
            messages=1_098_765,
            latency=TOOK,
            payload=PayloadSizes(measured=1_000, mean=1_234, p50=1, p95=1, p99=54_321, largest=99_999),
        ),
        steps=[
            StepMetrics(
                **RESULTS,
                step=step,
                commands=1_337_653,
                duration=TOOK,
                retries=23_456,
                failures={"payment_unavailable": 1_234},
                compensations=undone,
            )
            for step in STEPS
        ],
        business=BusinessMetrics(
            ended=1_500_000,
            orders={"completed": 1_400_000, "rejected": 100_000, "needs_attention": 12},
            completed_rate=0.93,
            latency=TOOK,
            open=12_345,
            waiting=1_234,
            being_undone=123,
            oldest_waiting=WaitingOrder(
                id="ORDER-2026-11-30-000123", submitted_at=AT, seconds=9_999, status="received", held=False
            ),
            needs_attention=12,
            refunds_owed=3,
            money={"USD": Money(charged=Decimal("123456789.01"), refunded=Decimal("9876543.21"))},
            compensation_latency=TOOK,
            oversell_attempts=4,
            confirmations=Confirmations(
                by_writer={"template": 1_000}, by_template=1_000, by_model=0, reasons={"no model is set": 9}
            ),
        ),
        system=SystemMetrics(
            processes=[
                ProcessMetrics(
                    id=UUID(int=1), kind="worker", host="worker-7f9c6d5b8-x2x4z", pid=4_194_303,
                    flow_run_id=None, started_at=AT, seen_at=AT, state="alive", samples=3,
                    mean_cpu_percent=97.5, most_cpu_percent=399.9, mean_memory_mb=1_234.5,
                    most_memory_mb=12_345.6, mean_connections=12.3, most_connections=20,
                    connections_limit=20,
                )
            ],
            machines=[
                MachineMetrics(
                    host="node-3.example", samples=3, mean_cpu_percent=55.5, most_cpu_percent=100,
                    mean_memory_percent=44.4, most_memory_percent=88.8, disk_percent=77.7,
                )
            ],
            leases=12,
        ),
    )  # fmt: skip


@WIDTHS
def test_every_value_of_the_status_is_whole(width: int) -> None:
    shown = status.shown(metrics(), 0.05)
    narrow, wide = rendered(shown, width), rendered(shown, 500)
    assert max(map(len, narrow.splitlines())) <= width
    assert "…" not in narrow
    assert words(wide) <= words(narrow)
    of_tables = {cell for cell in cells(wide) if re.search(r"\d", cell) and len(cell) < 24}
    of_tables.add("p99 70 min")
    assert {"119.3 s", "1,337,653", "54,300 21 failed", "4194303", "12,346 MB", "98 %"} <= of_tables
    whole = " ".join(narrow.split())
    assert {cell for cell in of_tables if cell not in whole} == set()


def an_order(order_id: str) -> ListedOrder:
    return ListedOrder(
        order_id=order_id,
        status="needs_attention",
        outcome=Outcome.NEEDS_ATTENTION,
        failing_step="write_confirmation",
        currency="USD",
        total_amount=Decimal("1234567.89"),
        amount_charged=Decimal("1234567.89"),
        amount_refunded=Decimal("1234567.89"),
        amount_at_risk=Decimal(0),
        tracking_number="1Z999AA10123456784",
        submitted_at=AT,
        finished_at=AT,
    )


def a_case(order_id: str) -> ReviewCase:
    return ReviewCase(
        order_id=order_id,
        since=AT,
        step="process_payment",
        currency="USD",
        amount_at_risk=Decimal("1234567.89"),
        last_error="the payment gateway refused the refund of this payment, because it is too old",
        error_code="refund_refused",
        retries=12,
        next_retry_at=AT,
        being_retried=False,
    )


def an_outcome(order_id: str) -> tuple[str, OrderOutcome]:
    undone = [Compensation(step="process_payment", compensation="refund_payment", status="success")]
    ended = OrderOutcome(
        order_id=order_id,
        outcome=Outcome.NEEDS_ATTENTION,
        failing_step="create_fulfilment",
        undone=undone,
        amount_charged=Decimal("1234567.89"),
        amount_refunded=Decimal("1234567.89"),
        seconds=12.34,
    )
    return order_id, ended


IDS = ("ORDER-REFUND-REFUSED-1", "ORDER-1001", "NIGHT-2f3a9c1d-000017")


@WIDTHS
@pytest.mark.parametrize("command", ["list", "review list", "review retry", "submit"])
def test_ids_and_words_are_whole_in_lists(command: str, width: int) -> None:
    cases = [a_case(order_id) for order_id in IDS]
    shown: RenderableType
    if command == "list":
        shown = look._table([an_order(order_id) for order_id in IDS])
    elif command == "review list":
        shown = review._listed(cases)
    elif command == "review retry":
        rows = [review._Row(case, "the gateway does not answer: try it again later") for case in cases]
        shown = review._decided(rows, dry_run=False)
    else:
        shown = outcome_table.outcome_table("Orders", map(an_outcome, IDS))
    narrow, wide = rendered(shown, width), rendered(shown, 500)
    assert max(map(len, narrow.splitlines())) <= width
    assert words(narrow) - words("Not shown at this width:") <= words(wide) | {
        f"{word}," for word in words(wide)
    }, "no word is folded"
    assert all(order_id in narrow for order_id in IDS)
    if "Not shown" not in narrow:
        assert words(wide) <= words(narrow)
    assert width < 200 or "Not shown" not in narrow


@WIDTHS
def test_words_are_whole_in_the_books_and_the_check(width: int) -> None:
    row = BookRow(
        "stock on hand + shipped", "5,700,000,427 + 12 pieces", "5,700,000,439 pieces received", True
    )
    found = Finding("payments", State.REAL, "the sandbox at http://127.0.0.1:8420", "set STRIPE_SECRET_KEY")
    for shown in (books.books_table(Books([row], compared=True)), check_table([found])):
        narrow, wide = rendered(shown, width), rendered(shown, 500)
        assert max(map(len, narrow.splitlines())) <= width
        assert words(wide) <= words(narrow) or width < 60


def test_a_value_that_is_wider_than_the_terminal_is_not_lost() -> None:
    table = terminal.table("Long", "order", ">amount", keys=1)
    table.add_row("O" * 100, "12.00 USD")
    narrow = rendered(table, 60)
    assert narrow.count("O") == 100
    assert "12.00 USD" in narrow
