"""A process is paused (SIGSTOP) until its lease is gone and another took over, then wakes up (SIGCONT).

It can write nothing, for the fence has moved on, and does nothing outside that is not covered: at a gateway
that remembers idempotency keys, and at one that forgets them; at a carrier, and at an inventory service. A
message that it sends again is the same one.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from saga.database import sync_engine
from shop.inventory.catalogue import load_sample_catalogue
from shop.inventory.service.contract import State
from shop.notifications.crm import webhook
from shop.notifications.kinds import Kind
from shop.notifications.mail import message_id
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.review.cancel import ask_to_cancel_sync
from shop.runtime.installation import read_installation_id
from shop.settings import settings
from tests.crm_server import SECRET, Crm, crm_server
from tests.easypost_server import EasyPost
from tests.faults.witness import ENDS, Orders, all_ended, assert_mails, assert_right, due, order_of, stock_up
from tests.integration.world import World
from tests.inventory_server import InventoryServer, inventory_server
from tests.mail_server import MailServer, mail_server
from tests.worker_forkserver.forkserver import Forkserver, Process
from tests.worker_forkserver.roles import find

QUICK = {
    "LEASE_SECONDS": "1",
    "POLL_SECONDS": "0.2",
    "PAYMENT_TIMEOUT_SECONDS": "25",
    # What paused processes hold of these counts until their leases expire.
    "MOST_CONSUMERS": "50",
    "PAYMENT_CALLS": "5000",
}
CLIENT = "shop.payments.sandbox.client:SandboxGateway"
MAIL = "shop.notifications.smtp:_Connection._hand_over"
HOOK = "shop.notifications.crm:Receiver._post"
CARRIER = "shop.shipping.easypost.carrier:EasyPostCarrier"
SERVICE = "shop.inventory.service.client:ServiceInventory"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Pause:
    """Where a process stops, and with which kind of order it gets there."""

    name: str
    place: str | None
    kind: str = "good"
    locks: bool = False
    """Whether it is in the middle of a transaction,
    which the server has to end before anybody else can have the order."""
    cancelled: bool = False
    """Whether somebody cancels the order meanwhile:
    who takes it over undoes it, and what the process then does late must do nothing."""

    @property
    def sends(self) -> bool:
        """Whether the order has ended at this point, and only its messages are to be sent."""
        return self.place is not None and self.place.startswith((MAIL, HOOK))

    @property
    def end(self) -> Outcome:
        return Outcome.COMPENSATED if self.cancelled else ENDS[self.kind]


WAITING = Pause("while it waits for the gateway, which has charged", None)
PAUSES = [
    Pause("between the claim and the first write", "saga.prefect.steps:run_in_database:before"),
    Pause("before the payment is created", f"{CLIENT}.create:before"),
    Pause("before its id is journalled", f"{CLIENT}.create:after"),
    Pause("before the charge", f"{CLIENT}.confirm:before"),
    WAITING,
    Pause("before the charge is journalled", f"{CLIENT}.confirm:after"),
    Pause("in the transaction of the outcome", "saga.loop:close:before", locks=True),
    Pause("before the refund", f"{CLIENT}.refund:before", "unshippable"),
    Pause("before the refund is journalled", f"{CLIENT}.refund:after", "unshippable"),
    Pause("in the transaction that reserves", "shop.inventory.embedded:reserve:after", locks=True),
    Pause("before the pivot's commit", "tasks.fulfill_order:fulfil:after", locks=True),
    Pause(
        "in the transaction that releases", "shop.inventory.embedded:release:after", "declined", locks=True
    ),
]
OUTSIDE = [
    Pause("before the stock is reserved at the service", f"{SERVICE}.reserve:before"),
    Pause("before that it is reserved is journalled", f"{SERVICE}.reserve:after"),
    Pause("before it is reserved, and cancelled then", f"{SERVICE}.reserve:before", cancelled=True),
    Pause("before the stock leaves the service's shelf", f"{SERVICE}.commit:before"),
    Pause("before that it left is journalled", f"{SERVICE}.commit:after"),
    Pause("before it leaves, and cancelled then", f"{SERVICE}.commit:before", cancelled=True),
    Pause("before the stock is released", f"{SERVICE}.release:before", "declined"),
    Pause("before that it is released is journalled", f"{SERVICE}.release:after", "declined"),
    Pause("before the stock is put back", f"{SERVICE}.put_back:before", "unshippable"),
    Pause("before that it is back is journalled", f"{SERVICE}.put_back:after", "unshippable"),
    Pause("before the carrier is asked for a quote", f"{CARRIER}.quote:before"),
    Pause("before the quote is journalled", f"{CARRIER}.quote:after"),
    Pause("before the label is bought", f"{CARRIER}._buy:before"),
    Pause("before the label is journalled", f"{CARRIER}._buy:after"),
    Pause("before the label is journalled, and cancelled then", f"{CARRIER}._buy:after", cancelled=True),
    Pause("before the mail is handed over", f"{MAIL}:before"),
    Pause("before that the mail was taken is noted", f"{MAIL}:after"),
    Pause("before the CRM is notified", f"{HOOK}:before"),
    Pause("before the notified CRM is noted", f"{HOOK}:after"),
]


@pytest.mark.parametrize("pause", [*PAUSES, *OUTSIDE], ids=lambda pause: pause.name)
def test_the_place_of_each_pause_exists(pause: Pause) -> None:
    if pause.place is not None:
        assert find(pause.place.rsplit(":", 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("forget_keys", [False, True], ids=["the gateway remembers keys", "it forgets them"])
async def test_a_paused_worker_writes_nothing(
    saga: World, forkserver: Forkserver, unique: str, forget_keys: bool
) -> None:
    """Every second process is a run of its own, the others are consumers;
    the other way round at the other gateway."""
    stock_up(saga)
    saga.misbehave(forget_keys=forget_keys)
    try:
        orders, paused = pause_everywhere(saga, forkserver, unique, PAUSES, own_runs=forget_keys)

        # Long enough for the database to end the transactions of paused processes.
        rescue = forkserver.consumer(30, env={**QUICK, "LEASE_SECONDS": "30"})
        rescue.wait_until(lambda: all_ended(saga), 60, "another to take them all over")
        assert {row.takeovers for row in saga.sql("SELECT takeovers FROM customer_order")} == {1}
        assert_right(saga, orders)
        before = all_that_is_written(saga)

        wake(paused)
        rescue.wait(60)
    finally:
        saga.misbehave(forget_keys=False)
    assert all_that_is_written(saga) == before, "they wrote nothing"
    assert_right(saga, orders)
    assert_mails(saga, orders)


@dataclass(frozen=True)
class Outside:
    """All that a shop can have outside, and the shelf of the inventory service,
    which is a database of its own."""

    mails: MailServer
    crm: Crm
    carrier: EasyPost
    service: InventoryServer
    shelf: World


@pytest.fixture
def outside(
    saga: World, postgres: EmbeddedPostgres, template_database: str, easypost_server: EasyPost, tmp_path: Path
) -> Iterator[Outside]:
    """The shop's stock, parcels, mails and contacts are there."""
    name = f"paused_stock_{next(_numbers)}"
    postgres.create_database(name, template=template_database)
    shelf = World(postgres.url(name), saga.gateway_url, tmp_path)
    load_sample_catalogue(shelf.database_url)
    with mail_server() as mails, crm_server() as crm, inventory_server(shelf.database_url) as service:
        addresses = {
            "SMTP_URL": f"smtp://{mails.host}:{mails.port}",
            "CRM_WEBHOOK_URL": crm.url,
            "CRM_WEBHOOK_SECRET": SECRET,
        }
        with environment({**easypost_server.settings, **service.settings, **addresses}):
            yield Outside(mails, crm, easypost_server, service, shelf)
    postgres.drop_database(name)


@pytest.mark.slow
@pytest.mark.parametrize("own_runs", [False, True], ids=["even ones are consumers", "odd ones are consumers"])
async def test_a_paused_worker_repeats_no_external_effect(
    saga: World, outside: Outside, forkserver: Forkserver, unique: str, own_runs: bool
) -> None:
    """Labels are bought once, stock moves once, also for orders that somebody cancelled meanwhile; and only
    who was paused over a message sends it again, as the same one."""
    stock_up(outside.shelf)
    orders, paused = pause_everywhere(saga, forkserver, unique, OUTSIDE, own_runs=own_runs)
    pauses = dict(zip(orders, in_their_sequence(OUTSIDE, own_runs), strict=True))
    ends = {order_id: pause.end for order_id, pause in pauses.items()}
    for order_id, pause in pauses.items():
        if pause.cancelled:
            ask_to_cancel_sync(order_id, reason="changed their mind", requested_by="ann")
    saga.sql("UPDATE outbox SET next_attempt_at = now() WHERE sent_at IS NULL")

    forkserver.consumer(env={**QUICK, "LEASE_SECONDS": "30"}).wait(90)
    taken_over = {row.id for row in saga.sql("SELECT id FROM customer_order WHERE takeovers = 1")}
    assert taken_over == {order_id for order_id, pause in pauses.items() if not pause.sends}
    assert_right(saga, orders, ends, shelf=outside.shelf)
    assert_once_outside(outside, ends)
    before = all_that_is_written(saga, "outbox"), all_that_is_written(outside.shelf)

    wake(paused)
    assert (all_that_is_written(saga, "outbox"), all_that_is_written(outside.shelf)) == before, (
        "they wrote nothing"
    )
    assert_right(saga, orders, ends, shelf=outside.shelf)
    assert_once_outside(outside, ends)
    assert_notified(outside, pauses)


def assert_once_outside(outside: Outside, ends: dict[str, Outcome]) -> None:
    """A completed order has one label and its piece has left the shelf;
    of any other no label is good and no piece has left."""
    for order_id, end in ends.items():
        assert len(outside.carrier.labels(order_id)) <= 1, f"{order_id}: bought twice"
        assert outside.carrier.good_labels(order_id) == (end is Outcome.COMPLETED), order_id
        found = outside.service.do(outside.service.inventory.get(outside.service.name_of(order_id)))
        assert (found.state is State.SHIPPED) is (end is Outcome.COMPLETED), order_id
    assert all(product.is_sound for product in outside.service.do(outside.service.inventory.stock()))


def assert_notified(outside: Outside, pauses: dict[str, Pause]) -> None:
    """Everybody has what is due and nothing else;
    what came twice is the same, and comes from a process that was paused over it."""
    due_notices = {(i, Kind(kind)) for i, end in report.read(list(pauses)).items() for kind in due(end)}
    with sync_engine(settings().database_url).connect() as connection:
        us = read_installation_id(connection)
    mails = {message_id(i, kind, settings(), us): pauses[i] for i, kind in due_notices}
    hooks = {webhook(i, kind, datetime.now(UTC), {}, us).id: pauses[i] for i, kind in due_notices}
    for name, expected, received in (
        (MAIL, mails, [(taken.id, taken.data) for taken in outside.mails.taken]),
        (HOOK, hooks, [(message.id, str(message.body).encode()) for message in outside.crm.received]),
    ):
        times = Counter(number for number, _ in received)
        assert set(times) == set(expected)
        assert len(set(received)) == len(times), "what was sent again is not the same"
        for number, pause in expected.items():
            assert (
                times[number] == 2 if pause.place == f"{name}:after" else times[number] <= 1 + pause.sends
            ), pause.name
    assert outside.crm.wrong == []


def pause_everywhere(
    saga: World, forkserver: Forkserver, unique: str, pauses: Sequence[Pause], *, own_runs: bool
) -> tuple[Orders, list[Process]]:
    """A process for each pause, stopped there with an order of its own."""
    orders: Orders = {}
    started: list[tuple[Pause, str, Process]] = []
    # Consumers first, one after the other: each takes what is waiting.
    # Runs of their own take their own orders, all at once.
    for pause in in_their_sequence(pauses, own_runs):
        i = pauses.index(pause)
        order = order_of(pause.kind, f"{unique}-{i}", **({"card": "0341"} if pause is WAITING else {}))
        orders[order["id"]] = order
        lane: dict[str, Any] = {
            "stop_at": pause.place,
            "env": {**QUICK, "LEASE_SECONDS": "2" if pause.locks else "60"},
        }
        if in_a_run_of_its_own(i, pause, own_runs):
            started.append((pause, order["id"], forkserver.order(order, **lane)))
        else:
            intake.submit([order])
            started.append((pause, order["id"], forkserver.consumer(**lane)))
            run_to_pause(saga, *started[-1])
    for each in started:
        run_to_pause(saga, *each)
    # Their leases run out: now, and not while the last of them are still on their way to their pauses.
    saga.sql("UPDATE lease SET until = now() - interval '1 second'")
    return orders, [process for _, _, process in started]


def in_their_sequence(pauses: Sequence[Pause], own_runs: bool) -> list[Pause]:
    return [
        pause
        for _, pause in sorted(
            enumerate(pauses), key=lambda each: in_a_run_of_its_own(each[0], each[1], own_runs)
        )
    ]


def in_a_run_of_its_own(number: int, pause: Pause, own_runs: bool) -> bool:
    return pause.locks or (number % 2 == 0) is own_runs


def run_to_pause(saga: World, pause: Pause, order_id: str, process: Process) -> None:
    if pause is WAITING and not process.stopped():
        process.wait_until(lambda: saga.charges(order_id) == 1, 30, "the charge")
        process.signal(signal.SIGSTOP)
    process.wait_until(process.stopped, 30, f"the pause {pause.name}")


def wake(paused: Sequence[Process]) -> None:
    """All of them, until they are gone."""
    for process in paused:
        assert process.stopped()
        process.signal(signal.SIGCONT)
    for process in paused:
        process.gone(60)


def all_that_is_written(saga: World, *more: str) -> dict[str, list[str]]:
    """Every row about the orders, save for what is about sending mails."""
    tables = (
        "customer_order",
        "order_step",
        "reservation",
        "shipment",
        "product",
        "customer_interaction",
        *more,
    )
    return {
        table: sorted(str(row[0]) for row in saga.sql(f"SELECT to_jsonb(t) FROM {table} t"))
        for table in tables
    }
