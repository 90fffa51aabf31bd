"""What is not kept for ever: a customer's data is found nowhere any more,
and all that is about money is as it was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.states import Pending
from sqlalchemy import create_engine, text

from deployments.local.postgres import EmbeddedPostgres
from flows.cancel_order import cancel_order
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.purge import purge
from saga.cancelling import Asked
from shop.notifications import outbox
from shop.notifications.maildir import mail_name
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.gateways import gateway
from shop.reconciliation.books import read_books
from shop.reconciliation.reconcile import reconcile
from shop.retention.customers import erase_customers, scrubbed
from shop.retention.traces import purge_traces
from shop.review.cancel import ask_to_cancel
from shop.settings import Settings, settings
from tests.integration.world import World, an_order

PLANTED = "Plantagenet"
"""In every field in which an order may say something of its customer."""


def planted(order_id: str, **fields: Any) -> dict[str, Any]:
    order = an_order(order_id, **fields)
    return {
        **order,
        "customer_id": f"CUST-{PLANTED}",
        "customer_name": f"Jane {PLANTED}",
        "customer_email": f"jane@{PLANTED.lower()}.example",
        "notes": f"for {PLANTED}, please",
        "items": [{**item, "name": f"A gift for {PLANTED}"} for item in order["items"]],
        "shipping_info": {
            **order["shipping_info"],
            "name": PLANTED,
            "address": f"1 {PLANTED} Street",
            "city": f"{PLANTED}ville",
        },
    }


def rows_about(url: str, needle: str = PLANTED) -> list[str]:
    """Every row of every table in which it is, in any spelling."""
    engine, found = create_engine(Settings(DATABASE_URL=url).database_url), []
    with engine.connect() as connection:
        for table in (
            connection.execute(
                text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            )
            .scalars()
            .all()
        ):
            rows = connection.execute(
                text(f'SELECT t::text FROM "{table}" t WHERE t::text ILIKE :what'), {"what": f"%{needle}%"}
            ).scalars()
            found += [f"{table}: {row[:300]}" for row in rows]
    engine.dispose()
    return found


def files_about(folder: Path, needle: str = PLANTED) -> list[str]:
    """Labels are compressed: any is one that says who gets the parcel."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [
        str(file)
        for file in files
        if file.suffix == ".pdf" or needle.lower() in file.read_bytes().decode("latin-1").lower()
    ]


def age(world: World, *order_ids: str, days: int = 40) -> None:
    world.sql(
        "UPDATE customer_order SET submitted_at = submitted_at - make_interval(days => :days), "
        "finished_at = finished_at - make_interval(days => :days) WHERE id = ANY(:ids)",
        ids=list(order_ids),
        days=days,
    )


MONEY = (
    """SELECT id, outcome, currency, amount_charged, amount_refunded, amount_at_risk, fingerprint,
    finished_at, failing_step, cell FROM customer_order ORDER BY id""",
    """SELECT order_id, step, status, undo_status, undo_due, begun_at, ended_at, attempts, remark,
    notes ->> 'payment_id', result ->> 'payment_id', result ->> 'amount_charged',
    undo_result ->> 'refund_id', undo_result ->> 'refunded_amount',
    error ->> 'code' FROM order_step ORDER BY order_id, step""",
    "SELECT order_id, tracking_number, items FROM shipment ORDER BY order_id",
    "SELECT order_id, state, items FROM reservation ORDER BY order_id",
)


@pytest.fixture
def erasing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOMER_DATA_DAYS", "30")
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()


@pytest.mark.usefixtures("prefect_api")
async def test_nothing_of_the_customer_is_left_and_all_of_the_money(
    saga: World, erasing: None, unique: str
) -> None:
    orders = {
        f"GOOD-{unique}": planted(f"GOOD-{unique}"),
        f"BAD-{unique}": {**planted(f"BAD-{unique}"), "items": [], "currency": PLANTED},
        f"SHORT-{unique}": planted(f"SHORT-{unique}", product="OUT-OF-STOCK"),
        f"NOCARD-{unique}": planted(f"NOCARD-{unique}", card="0000"),
        f"NOSHIP-{unique}": planted(f"NOSHIP-{unique}", country="AQ"),
        f"BACK-{unique}": planted(f"BACK-{unique}"),
    }
    never = f"NEVER-{unique}"
    orders[never] = {**planted(never), "items": f"whatever {PLANTED} likes"}
    intake.submit(orders.values())
    await ask_to_cancel(never, reason="a mistake", requested_by="ann")
    await process_pending_orders(consumer_seconds=0)
    back = f"BACK-{unique}"
    assert (
        await ask_to_cancel(back, reason=f"{PLANTED} does not want it", requested_by=f"Jane {PLANTED}")
        is Asked.ASKED
    )
    await process_pending_orders(consumer_seconds=0)
    ends = {order_id: end.outcome for order_id, end in report.read(list(orders)).items()}
    assert set(ends.values()) == {
        Outcome.COMPLETED,
        Outcome.REJECTED,
        Outcome.OUT_OF_STOCK,
        Outcome.COMPENSATED,
    }
    assert rows_about(saga.database_url)
    assert files_about(saga.var_dir)
    age(saga, *orders)
    before, books = [saga.sql(statement) for statement in MONEY], read_books(saga.database_url, None).rows

    done = await purge()
    assert done["erased"] == len(orders)

    assert rows_about(saga.database_url) == []
    assert files_about(saga.var_dir) == []
    assert [saga.sql(statement) for statement in MONEY] == before
    assert read_books(saga.database_url, None).rows == books
    saga.assert_books_balance()
    assert {order_id: end.outcome for order_id, end in report.read(list(orders)).items()} == ends
    assert (await purge())["erased"] == 0, "once"

    charges = {order_id: saga.charges(order_id) for order_id in orders}
    receipts = intake.submit(orders.values())
    assert [(receipt.status, receipt.outcome) for receipt in receipts] == [
        ("known", ends[order_id]) for order_id in orders
    ]
    again = await process_order(orders[f"GOOD-{unique}"], return_state=True)
    assert again.name == "Completed"
    await process_pending_orders(consumer_seconds=0)
    assert {order_id: saga.charges(order_id) for order_id in orders} == charges
    assert intake.submit([planted(f"GOOD-{unique}", price="1.00")])[0].status == "refused", (
        "another order under the same id"
    )

    since = datetime.now(UTC) - timedelta(days=60)
    found = [each async for each in reconcile(gateway(), since, fix=False) if each.order_id in orders]
    assert found == [], "no false alarm"
    saga.sql(
        "UPDATE customer_order SET amount_charged = amount_charged + 1 WHERE id = :id", id=f"GOOD-{unique}"
    )
    found = [each async for each in reconcile(gateway(), since, fix=False) if each.order_id in orders]
    assert [each.order_id for each in found] == [f"GOOD-{unique}"], "and a right one is told"
    saga.sql(
        "UPDATE customer_order SET amount_charged = amount_charged - 1 WHERE id = :id", id=f"GOOD-{unique}"
    )
    saga.assert_books_balance()


async def test_an_erased_order_can_still_come_back(saga: World, erasing: None, unique: str) -> None:
    order_id = f"LATE-{unique}"
    intake.submit([planted(order_id)])
    await process_pending_orders(consumer_seconds=0)
    age(saga, order_id)
    assert await asyncio.to_thread(erase_customers) == 1
    await ask_to_cancel(order_id, reason="a warranty case", requested_by="ann")
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    charged, refunded = saga.money(order_id)
    assert charged == refunded > 0
    assert "customer has no e-mail address" in str(saga.mails()[mail_name(order_id, "refund")]["Subject"])
    saga.assert_books_balance()


async def test_an_order_still_in_use_keeps_everything(saga: World, erasing: None, unique: str) -> None:
    ids = {name: f"{name}-{unique}" for name in ("YOUNG", "REVIEW", "UNSENT", "DISPUTED", "NOTIFIED", "OPEN")}
    orders = [planted(ids[name]) for name in ("YOUNG", "UNSENT", "DISPUTED", "NOTIFIED")]
    intake.submit([*orders, planted(ids["REVIEW"], card="0259", country="AQ")])
    await process_pending_orders(consumer_seconds=0)
    intake.submit([planted(ids["OPEN"])])
    assert saga.order(ids["REVIEW"]).outcome == Outcome.NEEDS_ATTENTION
    age(saga, *(order_id for name, order_id in ids.items() if name != "YOUNG"))
    saga.sql("UPDATE outbox SET sent_at = NULL WHERE order_id = :id", id=ids["UNSENT"])
    saga.sql(
        "INSERT INTO dispute (id, order_id, currency, reason, status, opened_at, as_of) "
        "VALUES ('d', :id, 'USD', 'x', 'y', now(), now())",
        id=ids["DISPUTED"],
    )
    saga.sql(
        "INSERT INTO payment_event (id, type, happened_at, order_id) "
        "VALUES ('e', 'charge.refunded', now(), :id)",
        id=ids["NOTIFIED"],
    )
    before = {
        table: saga.sql(f"SELECT * FROM {table} t ORDER BY t::text")
        for table in ("customer_order", "order_step", "outbox")
    }
    files = files_about(saga.var_dir)

    assert await asyncio.to_thread(erase_customers) == 0
    assert {table: saga.sql(f"SELECT * FROM {table} t ORDER BY t::text") for table in before} == before
    assert files_about(saga.var_dir) == files


async def test_a_message_that_cannot_be_sent_keeps_nothing_for_ever(
    saga: World, erasing: None, unique: str
) -> None:
    order_id = f"FULL-{unique}"
    intake.submit([planted(order_id)])
    await process_pending_orders(consumer_seconds=0)
    age(saga, order_id, days=400)
    saga.sql(
        "UPDATE outbox SET sent_at = NULL, error = '452 mailbox full', attempts = 400, "
        "created_at = now() - interval '29 days' WHERE order_id = :id",
        id=order_id,
    )
    assert await asyncio.to_thread(erase_customers) == 0
    saga.sql("UPDATE outbox SET created_at = now() - interval '31 days' WHERE order_id = :id", id=order_id)
    assert await asyncio.to_thread(erase_customers) == 1
    assert rows_about(saga.database_url) == []
    assert not await outbox.is_due(), "nothing is sent without an address"
    assert await outbox.send_again() == 0


async def test_only_when_it_is_asked_for(world: World, unique: str) -> None:
    intake.submit([planted(f"OLD-{unique}")])
    world.sql("UPDATE customer_order SET outcome = 'completed', finished_at = now() - interval '9 years'")
    assert settings().retention.customer_data_days is None
    assert await asyncio.to_thread(erase_customers) == 0
    assert rows_about(world.database_url)


async def test_many_in_batches_and_broken_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    intake.submit([planted(f"O-{number}") for number in range(1200)])
    world.sql("UPDATE customer_order SET outcome = 'completed', finished_at = now() - interval '40 days'")
    tries = iter((None, OSError("the disk is away")))

    def breaks(*_: Any) -> None:
        if (trouble := next(tries, None)) is not None:
            raise trouble

    with monkeypatch.context() as patch:
        patch.setattr("shop.retention.customers.delete_files", breaks)
        with pytest.raises(OSError, match="disk"):
            await asyncio.to_thread(erase_customers, 30)
    assert world.sql("SELECT count(*) FROM customer_order WHERE erased_at IS NOT NULL") == [(500,)]
    both = await asyncio.gather(*(asyncio.to_thread(erase_customers, 30) for _ in range(2)))
    assert sum(both) == 700
    assert rows_about(world.database_url) == []


@pytest.mark.usefixtures("prefect_api")
async def test_runs_of_erased_orders_go_from_the_prefect_server(
    saga: World, erasing: None, postgres: EmbeddedPostgres, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = f"OLD-{unique}", f"YOUNG-{unique}"
    name = f"{PLANTED}{unique}"
    for order_id in (old, young):
        await process_order({**planted(order_id), "customer_name": name}, return_state=True)
        await cancel_order(
            order_id, reason=f"{name} moved away", requested_by=name, confirmed=False, return_state=True
        )
    async with get_client() as client:  # a run whose worker died before it began
        await client.create_flow_run(
            process_order, parameters={"order": planted(old)}, name=f"order {old}", state=Pending()
        )
    age(saga, old)
    monkeypatch.setenv("CUSTOMER_DATA_DAYS", "0.0000001")  # the server's runs cannot be aged
    settings.cache_clear()
    saga.sql("UPDATE customer_order SET finished_at = now() + interval '1 day' WHERE id = :id", id=young)
    assert (await purge())["runs"] == 3
    kinds = ("order", "preview cancelling")
    async with get_client() as client:
        ours = FlowRunFilter(
            name=FlowRunFilterName(any_=[f"{kind} {order}" for kind in kinds for order in (old, young)])
        )
        assert sorted(run.name for run in await client.read_flow_runs(flow_run_filter=ours)) == [
            f"{kind} {young}" for kind in kinds
        ]


async def test_traces_go_after_their_time(world: World) -> None:
    world.sql(
        "INSERT INTO worker_process (id, kind, host, pid, every_seconds) "
        "VALUES (gen_random_uuid(), 'consumer', 'h', 1, 15)"
    )
    for days, name in ((1, "young"), (10, "old")):
        when = {"at": datetime.now(UTC) - timedelta(days=days), "id": name}
        world.sql(
            "INSERT INTO system_sample "
            "(process_id, at, connections_in_use, connections_open, connections_most) "
            "SELECT id, :at, 0, 0, 1 FROM worker_process LIMIT 1",
            at=when["at"],
        )
        world.sql(
            "INSERT INTO payment_event (id, type, happened_at, handled_at, done) "
            "VALUES (:id, 't', :at, :at, 'x')",
            **when,
        )
        world.sql(
            "INSERT INTO payment_event (id, type, happened_at) VALUES (:id || '-waiting', 't', :at)", **when
        )
        world.sql(
            "INSERT INTO alert (rule, subject, resource, value, threshold, details, over_at) "
            "VALUES ('order_waiting', :id, 'r', 1, 1, '{}', :at)",
            **when,
        )
    world.sql(
        "INSERT INTO alert (rule, subject, resource, value, threshold, details, since) "
        "VALUES ('order_waiting', 'open', 'r', 1, 1, '{}', now() - interval '1 year')"
    )
    world.sql(
        "INSERT INTO alert_notice (alert_id, phase, way, sent_at) "
        "SELECT id, 'cleared', 'url-1', now() FROM alert"
    )
    for age_days, subject in ((1, "late"), (3, "undeliverable")):  # to a service that ALERT_URLS has no more
        world.sql(
            "WITH a AS (INSERT INTO alert (rule, subject, resource, value, threshold, details, over_at) "
            "VALUES ('order_waiting', :id, 'r', 1, 1, '{}', now() - interval '10 days') RETURNING id) "
            "INSERT INTO alert_notice (alert_id, phase, way, created_at) "
            "SELECT id, 'cleared', 'url-2', now() - make_interval(days => :days) FROM a",
            id=subject,
            days=age_days,
        )
    deleted = await asyncio.to_thread(purge_traces)
    assert deleted == {"system_sample": 1, "worker_process": 0, "payment_event": 1, "alert": 2}
    assert world.sql("SELECT subject FROM alert ORDER BY id") == [("young",), ("open",), ("late",)]
    assert world.sql("SELECT id FROM payment_event ORDER BY id") == [
        ("old-waiting",),
        ("young",),
        ("young-waiting",),
    ]
    assert not any((await asyncio.to_thread(purge_traces)).values())


def test_what_stays_of_a_steps_json() -> None:
    entry = {
        "payment_id": "pay_1",
        "customer_id": "CUST-1",
        "greeting": "Dear Jane",
        "refunded_amount": "9.99",
        "error": {"code": "x", "message": "Jane"},
        "reserved_items": [{"product_id": "P", "quantity": 1, "name": "Jane"}, "Jane"],
        "status": "to jane@example.com",
        "fraud_score": 3,
    }
    assert scrubbed(entry) == {
        "payment_id": "pay_1",
        "refunded_amount": "9.99",
        "error": {"code": "x"},
        "reserved_items": [{"product_id": "P", "quantity": 1}],
        "fraud_score": 3,
    }
