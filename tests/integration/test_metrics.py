"""Metrics of orders that really ran, with known counts; money by the gateway's own ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deployments.cli import order_saga
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.confirmation.confirmation import TEMPLATE
from shop.monitoring.commands import StepMetrics
from shop.monitoring.metrics import Metrics, read_metrics
from shop.monitoring.sampler import wait_for_samplers
from shop.monitoring.window import Window, last, parse
from shop.orders import intake
from tests.conftest import HOME
from tests.integration.world import World, an_order

STEPS = [step.name for step in ORDER_SAGA]
SIX_STEPS = (
    "validate_order",
    "check_inventory",
    "process_payment",
    "generate_confirmation",
    "fulfill_order",
    "notify_customer",
)
"""What is expected of each is written down here; a step that somebody adds is counted, too."""


def steps_of(metrics: Metrics) -> dict[str, StepMetrics]:
    assert metrics.steps is not None
    return {step.step: step for step in metrics.steps}


async def run_all(orders: Sequence[dict[str, Any]]) -> None:
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)


def mixed(unique: str) -> list[dict[str, Any]]:
    """Four that complete, and one for each other end."""
    good = [an_order(f"GOOD-{i}-{unique}") for i in range(4)]
    return [
        *good,
        an_order(f"BAD-{unique}", items=[]),
        an_order(f"SHORT-{unique}", product="OUT-OF-STOCK"),
        an_order(f"NOCARD-{unique}", card="0000"),
        an_order(f"NOSHIP-{unique}", country="AQ"),
        an_order(f"STUCK-{unique}", card="0259", country="AQ"),
    ]


async def test_every_count_of_a_known_mix(saga: World, unique: str) -> None:
    await run_all(mixed(unique))
    metrics = read_metrics(last(hours=1), steps=STEPS)
    business, events = metrics.business, metrics.events
    assert business.orders == {
        "completed": 4,
        "rejected": 1,
        "out_of_stock": 1,
        "compensated": 2,
        "needs_attention": 1,
    }
    assert (business.ended, business.open, business.waiting, business.oldest_waiting) == (9, 0, 0, None)
    assert business.completed_rate == pytest.approx(4 / 9)
    assert business.oversell_attempts == 1
    assert business.confirmations.by_writer == {TEMPLATE: 6}
    assert (business.needs_attention, business.refunds_owed) == (1, 1)

    steps = steps_of(metrics)
    assert [step.step for step in metrics.steps or []] == STEPS
    assert [step.step for step in read_metrics(last(hours=1)).steps or []] == STEPS, (
        "the saga's sequence, not the alphabet's"
    )
    counts = {
        name: (step.commands, step.succeeded, step.refused, step.failed) for name, step in steps.items()
    }
    assert {name: counts[name] for name in SIX_STEPS} == {
        "validate_order": (9, 8, 1, 0),
        "check_inventory": (8, 7, 1, 0),
        "process_payment": (7, 6, 1, 0),
        "generate_confirmation": (6, 6, 0, 0),
        "fulfill_order": (6, 4, 2, 0),
        "notify_customer": (4, 4, 0, 0),
    }
    assert steps["check_inventory"].failures == {"out_of_stock": 1}
    assert steps["fulfill_order"].failures == {"carrier_refused": 2}
    assert steps["process_payment"].success_rate == pytest.approx(6 / 7)
    assert steps["process_payment"].error_rate == 0
    undone = {
        name: (step.compensations.done, step.compensations.failed)
        for name, step in steps.items()
        if step.compensations.commands
    }
    assert undone["process_payment"][1] == 1, "the refund that was refused"
    assert undone["check_inventory"] == (3, 0)

    assert events is not None
    added = sum(each[0] for name, each in counts.items() if name not in SIX_STEPS)
    assert events.steps == 9 + 8 + 7 + 6 + 6 + 4 + added
    assert events.compensations == sum(done + failed for done, failed in undone.values())
    assert events.total_events == events.steps + events.compensations + events.messages
    assert events.refused == 5
    assert events.messages == saga.sql("SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL")[0][0] > 0
    assert events.payload is not None
    assert events.payload.measured == events.steps
    assert 10 < events.payload.p50 <= events.payload.p99 <= events.payload.largest

    ours = [(order["id"], saga.money(order["id"])) for order in mixed(unique)]
    money = business.money["USD"]
    assert money.charged == sum(charged for _, (charged, _) in ours) == Decimal("999.99") * 6
    assert money.refunded == sum(refunded for _, (_, refunded) in ours)
    assert money.at_risk == money.refunds_owed == money.charged - money.refunded - Decimal("999.99") * 4
    saga.assert_books_balance()


async def test_durations_are_those_of_the_journal(saga: World, unique: str) -> None:
    await run_all([an_order(f"TIME-{i}-{unique}", price="1.00") for i in range(7)])
    found = read_metrics(parse("all"))
    for name, step in steps_of(found).items():
        (exact,) = saga.sql(
            "SELECT percentile_disc(0.5) "
            "WITHIN GROUP (ORDER BY date_part('epoch', ended_at - begun_at)) * 1000 AS p50, "
            "avg(date_part('epoch', ended_at - begun_at)) * 1000 AS mean FROM order_step WHERE step = :step",
            step=name,
        )
        assert step.duration.p50_ms == pytest.approx(exact.p50, rel=found.percentiles_within, abs=0.11)
        assert step.duration.mean_ms == pytest.approx(exact.mean, rel=found.percentiles_within, abs=0.11)
    (order,) = saga.sql(
        "SELECT max(date_part('epoch', finished_at - submitted_at)) * 1000 AS most FROM customer_order"
    )
    assert found.business.latency.p99_ms == pytest.approx(order.most, rel=found.percentiles_within)


async def test_retries_are_counted(saga: World, unique: str) -> None:
    await process_order(an_order(f"RETRY-{unique}", card="0119"), return_state=True)
    (row,) = saga.sql("SELECT attempts FROM order_step WHERE step = 'process_payment'")
    assert steps_of(read_metrics(last(hours=1)))["process_payment"].retries == row.attempts - 1 > 0
    assert saga.charges(f"RETRY-{unique}") == 1


async def test_a_window_has_what_ended_in_it(saga: World, unique: str) -> None:
    before = Window(name="before", until=datetime.now(UTC) - timedelta(seconds=1))
    await run_all(mixed(unique))
    assert read_metrics(before).business.ended == 0
    assert read_metrics(before).events is not None
    saga.sql(
        "UPDATE order_step SET begun_at = begun_at - interval '3 days', "
        "ended_at = ended_at - interval '3 days'"
    )
    saga.sql(
        "UPDATE customer_order SET finished_at = finished_at - interval '3 days', "
        "submitted_at = submitted_at - interval '3 days'"
    )
    assert steps_of(read_metrics(last(days=1), steps=STEPS))["validate_order"].commands == 0
    assert steps_of(read_metrics(last(days=7)))["validate_order"].commands == 9
    assert read_metrics(last(days=1)).business.ended == 0
    assert sum(read_metrics(last(days=7)).business.orders.values()) == 9


async def test_the_oldest_waiting_order_and_what_is_on_its_way_back(saga: World, unique: str) -> None:
    intake.submit([an_order(f"WAITS-{unique}"), an_order(f"LATER-{unique}")])
    saga.sql(
        "UPDATE customer_order SET submitted_at = now() - interval '1 hour' WHERE id = :id",
        id=f"WAITS-{unique}",
    )
    business = read_metrics(last(minutes=5)).business
    assert (business.open, business.waiting, business.ended) == (2, 2, 0)
    assert business.oldest_waiting is not None
    assert business.oldest_waiting.id == f"WAITS-{unique}"
    assert 3600 <= business.oldest_waiting.seconds < 3700
    await process_pending_orders(consumer_seconds=0)
    # As a worker leaves it that dies between the failure and the refund:
    saga.sql(
        "UPDATE customer_order SET outcome = NULL, finished_at = NULL, "
        """failure = '{"code": "x"}' WHERE id = :id""",
        id=f"LATER-{unique}",
    )
    business = read_metrics(last(minutes=5)).business
    assert (business.refunds_owed, business.being_undone) == (1, 1)
    assert business.money["USD"].refunds_owed == saga.money(f"LATER-{unique}")[0] == Decimal("999.99")


async def test_who_wrote_confirmations_and_why(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shop.settings import settings

    for name, value in {
        "DSPY_MODEL": "openai/none",
        "DSPY_API_BASE": "http://127.0.0.1:9/v1",
        "DSPY_API_KEY": "no-key-at-all",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    await process_order(an_order(f"MODEL-{unique}"), return_state=True)
    found = read_metrics(last(hours=1)).business.confirmations
    assert (found.by_template, found.by_model) == (1, 0)
    ((reason, count),) = found.reasons.items()
    assert reason.startswith("language model not used: ")
    assert count == 1


async def test_a_consumer_leaves_samples(saga: World, unique: str) -> None:
    await run_all([an_order(f"SAMPLE-{unique}")])
    wait_for_samplers(20)
    system = read_metrics(last(hours=1)).system
    assert system is not None
    (consumer,) = system.processes
    assert (consumer.kind, consumer.pid, consumer.state) == ("consumer", os.getpid(), "ended")
    assert consumer.samples >= 1
    assert consumer.mean_memory_mb is not None
    assert consumer.mean_memory_mb > 30
    assert consumer.connections_limit is not None
    assert consumer.connections_limit >= 20
    assert len(system.machines) == 1
    assert 0 < system.machines[0].disk_percent <= 100


async def test_what_is_turned_off_is_not_read(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shop.settings import settings

    off = saga.var_dir / "off.yaml"
    off.write_text(
        "event_monitoring: {enabled: false}\nworker_monitoring: {enabled: false}\n"
        "metrics_collection: {enabled: false}\n"
    )
    monkeypatch.setenv("MONITORING_CONFIG", str(off))
    settings.cache_clear()
    await run_all([an_order(f"OFF-{unique}")])
    wait_for_samplers(20)
    found = read_metrics()
    assert (found.events, found.steps, found.system) == (None, None, None)
    assert found.business.orders["completed"] == 1
    assert found.window.name == "the last 30 minutes"
    assert saga.sql("SELECT count(*) FROM worker_process")[0][0] == 0


async def test_the_command_prints_tables_and_json(
    saga: World, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run_all(mixed(unique))
    assert order_saga(["status", "--window", "1h"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "Events",
        "Steps",
        "Business",
        "Processes",
        "process_payment",
        "4 completed",
        "999.99 USD at risk",
        "2 carrier_refused",
    ):
        assert word in shown, shown
    assert order_saga(["status", "--json", "--window", "all"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["business"]["orders"]["completed"] == 4
    assert Metrics.model_validate(printed).business.ended == 9
    assert order_saga(["status", "--window", "yesterday"]) == 2
    assert "'yesterday' is not a window" in capsys.readouterr().err


@pytest.mark.usefixtures("prefect_api")
def test_the_command_as_a_person_runs_it(world: World) -> None:
    def status(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deployments.cli", "status", "--window", "24h"]
        given = {**os.environ, "DATABASE_URL": world.database_url, **environment}
        return subprocess.run(
            command, cwd=HOME, env=given, capture_output=True, text=True, timeout=60, check=False
        )

    run = status()
    assert run.returncode == 0, run.stderr
    assert "0 completed" in run.stdout
    wrong = world.var_dir / "wrong.yaml"
    wrong.write_text("worker_monitoring: {error_rate_treshold: 0.1}")
    run = status(MONITORING_CONFIG=str(wrong))
    assert (run.returncode, run.stdout) == (2, "")
    assert "worker_monitoring.error_rate_threshold?" in run.stderr
    run = status(DATABASE_URL="postgresql://nobody:PLANTED@127.0.0.1:1/none")
    assert run.returncode == 2
    assert "does not answer" in run.stderr
    assert "PLANTED" not in run.stderr
