"""Several simulated workers, one database, one gateway; and what can happen to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, NoReturn
from unittest.mock import patch

import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import shop.database
import shop.journal
import shop.payments.gateways
from flows.cancel_order import cancel_order
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.recover_orders import recover_orders
from flows.retry_compensations import retry_compensations
from shop import intake
from shop.catalogue import load_catalogue
from shop.database import Tx, after_commit, is_database_trouble, sync_engine
from shop.desk.cancel import ask_to_cancel
from shop.expiry import expire_reservations
from shop.intake import submit_one
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger
from shop.settings import settings
from shop.under_way import OrderUnderWay
from tests.model import known
from tests.model.connection import Connection, Reserve
from tests.model.core import join
from tests.model.gateway import Gateway, Wire
from tests.model.orders import IDS, KINDS, order
from tests.model.plain import Surprises, without_prefect
from tests.model.witness import Witness
from tests.model.worker import Dead, Point, Worker, current

PIECES = {"PLENTY": 1000, "SCARCE": 2}
_TABLES = ("customer_order", "order_step", "lease", "reservation", "shipment", "outbox", "customer_interaction", "attention", "desk_entry")
_EMPTY = "WITH {} UPDATE product SET received = pieces, on_hand = pieces, reserved = 0 FROM (VALUES {}) AS v(product, pieces) WHERE id = product".format(
    ", ".join(f"gone_{table} AS (DELETE FROM {table})" for table in _TABLES), ", ".join(f"('{name}', {n})" for name, n in PIECES.items())
)
# Taking an order in costs as much as a step: each is taken in once, and kept for all histories.
_KEEP = (
    "CREATE TABLE IF NOT EXISTS stored_order AS SELECT id, number, content, fingerprint, '' AS kind FROM customer_order WITH NO DATA",
    "INSERT INTO stored_order SELECT id, number, content, fingerprint, %s FROM customer_order",
    "DELETE FROM customer_order",
)
_COME = (
    "INSERT INTO customer_order (id, number, content, fingerprint) OVERRIDING SYSTEM VALUE SELECT id, number, content, fingerprint "
    "FROM stored_order WHERE (id, kind) IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY id"
)
_SWEEP_EVERY = 50
_ENOUGH_ROUNDS = 40
_ENOUGH_STEPS = 4000
_LAST_LINES, _WIDTH = 120, 130


@dataclass
class Tally:
    """How much was tried."""

    histories: int = 0
    different: set[int] = field(default_factory=set)
    """By what was passed, in which sequence: two that were drawn differently may be the same."""
    orders: int = 0
    steps: int = 0
    switches: int = 0
    crashes: int = 0
    overtaken: int = 0
    """Orders that were claimed while a worker lived that had claimed them before."""
    known: int = 0
    """Histories that left their orders as an earlier one had."""

    def __str__(self) -> str:
        return (
            f"{self.histories} histories ({len(self.different)} different ones) of {self.orders} orders: {self.steps} awaits passed, {self.switches} changes between workers, "
            f"{self.crashes} crashes, {self.overtaken} orders taken from workers that lived; {self.known} left their orders as another one had, and were not recovered again"
        )


class Violation(AssertionError):
    """A promise was broken."""


def _shortened(trace: Sequence[str]) -> str:
    return "\n".join(" ".join(line.split())[:_WIDTH] for line in trace[-_LAST_LINES:])


def _emptied(ledger: Ledger) -> Ledger:
    """Making a new one takes ten times as long."""
    for table in ("payments", "refunds", "keys", "processing"):
        ledger._db.execute(f"DELETE FROM {table}")
    ledger.behaviour = Behaviour()
    return ledger


class World:
    """Made once; `begin` empties it for the next history."""

    def __init__(self, url: str) -> None:
        self._stack = ExitStack()
        self._url = url
        self._db = self._stack.enter_context(closing(psycopg.connect(url, autocommit=True)))
        join([self._db.pgconn.backend_pid])
        self._reserve = self._stack.enter_context(closing(Reserve(url)))
        self.ledger = Ledger(None)
        self.witness = self._stack.enter_context(closing(Witness(url, self.ledger)))
        self._engines: list[AsyncEngine] = []
        self._engine_of: dict[Worker, AsyncEngine] = {}
        self.workers: list[Worker] = []
        self.tally = Tally()
        self._last: Worker | None = None
        self.trace: list[str] = []
        """What was passed, in its sequence."""
        self.violations: list[str] = []
        self._surprises = Surprises()
        self._number = 0
        self._kinds: Mapping[str, str] = {}
        self._fine = False
        self._known: set[bytes] = set()
        load_catalogue(url, {product: (product, pieces) for product, pieces in PIECES.items()})
        self._take_orders_in()
        self._replace()

    def _take_orders_in(self) -> None:
        self._db.execute(_KEEP[0])
        for kind in KINDS:
            intake.submit([order(order_id, kind) for order_id in IDS])
            self._db.execute(_KEEP[1], [kind])
            self._db.execute(_KEEP[2])

    def _replace(self) -> None:
        real_claim = shop.journal.claim

        async def claim(tx: Tx, *arguments: Any, **options: Any) -> list[OrderUnderWay]:
            claimed, worker = await real_claim(tx, *arguments, **options), current()
            if worker is not None:
                after_commit(tx, lambda: self._claimed(worker, claimed))
            return claimed

        enter = self._stack.enter_context
        enter(without_prefect())
        enter(patch.object(shop.database, "create_async_engine", self._engine))
        enter(patch.object(shop.journal, "claim", claim))
        for name in ("prefect.orders", "shop.work", "sqlalchemy.pool", "shop.lease", "shop.completed"):
            logger = logging.getLogger(name)
            enter(patch.object(logger, "handlers", [self._surprises] if name in {"prefect.orders", "shop.work"} else []))
            enter(patch.object(logger, "propagate", False))

    def close(self) -> None:
        self.end()
        for engine in self._engines:
            engine.sync_engine.dispose(close=False)
        self._stack.close()
        sync_engine(settings().database_url).dispose()

    # -- a history

    def begin(self, kinds: Mapping[str, str], *, fine: bool = False) -> None:
        """Nothing is there but stock, and orders (id to kind). `fine`: workers can be stopped at every statement."""
        self._kinds, self._fine = kinds, fine
        if self.tally.histories % _SWEEP_EVERY == 0:  # what was deleted is in the way of every scan
            self._db.execute("VACUUM " + ", ".join((*_TABLES, "product")))
        self._db.execute(_EMPTY, prepare=True)
        self._db.execute(_COME, [list(kinds), list(kinds.values())], prepare=True)
        self.ledger = _emptied(self.ledger)
        self.wire = Wire(self.ledger, self.witness.after_request)
        self.witness.begin(self.ledger)
        self.witness.after_commit("a customer", {})
        self._surprises.heard.clear()
        self.trace = []
        self._number, self._last = 0, None
        self.tally.histories += 1
        self.tally.orders += len(kinds)

    def end(self) -> None:
        """Whatever became of the history: all workers are gone."""
        for worker in list(self.workers):
            self.crash(worker, counts=False)

    def check(self) -> None:
        """Raises Violation if anything is not as it must be."""
        faults = [*self.witness.faults, *(f"nobody foresaw: {surprise}" for surprise in self._surprises.heard)]
        if faults:
            self.fail("; ".join(faults))

    def fail(self, what: str) -> NoReturn:
        """Raises Violation, with what was passed last."""
        self.violations.append(what)
        raise Violation(f"{what}\nWhat came before:\n{_shortened(self.trace)}")

    # -- what can happen

    def start(self, kind: str, which: int = 0) -> Worker:
        """A worker comes up: `order` runs `process_order`, `drain` and `recovery` the other flows, `expiry` only gives back
        reservations, `customer` only sends the order, `ask` only asks to cancel it, `cancel` sees to it, `retry` is the desk's."""
        order_id = list(self._kinds)[which % len(self._kinds)]
        content = order(order_id, self._kinds[order_id])
        stories: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "order": lambda: process_order.fn(content),  # type: ignore[arg-type]
            "drain": lambda: process_pending_orders.fn(drain_seconds=0, batch_size=10),
            "recovery": recover_orders.fn,
            "expiry": expire_reservations,
            "customer": lambda: submit_one(content),
            "retry": retry_compensations.fn,
            "cancel": lambda: cancel_order.fn(order_id, "changed their mind", "ann", True),
            "ask": lambda: ask_to_cancel(order_id, reason="changed their mind", requested_by="bob"),
        }
        self._number += 1
        worker = Worker(f"{kind} {self._number}", self._with_gateway(stories[kind]), fine=self._fine)
        self._engine_of[worker] = self._engines.pop() if self._engines else self._new_engine()
        self.workers.append(worker)
        worker.loop.settle()
        return worker

    def _with_gateway(self, story: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Coroutine[Any, Any, Any]]:
        async def run() -> Any:
            worker = current()
            assert worker is not None
            shop.payments.gateways.use(Gateway(worker, self.wire))
            return await story()

        return run

    def step(self, worker: Worker, pick: int = 0, trouble: str | None = None) -> Point | None:
        if worker is not self._last:
            self.tally.switches += 1
            self._last = worker
        self.tally.steps += 1
        ready = worker.ready
        self.trace.append(f"{worker}: {ready[pick % len(ready)].what if ready else '...'}{f' ({trouble})' if trouble else ''}")
        return worker.step(pick, trouble)

    def sleep(self, worker: Worker, seconds: float) -> None:
        """Time passes for one worker."""
        self.trace.append(f"{worker}: {seconds:.0f} s")
        worker.sleep(seconds)

    def cancel(self, worker: Worker) -> None:
        self.trace.append(f"{worker}: is cancelled")
        worker.cancel()

    def request_arrives_late(self, number: int) -> None:
        self.trace.append(f"late: {self.wire.arrives_late(number)}")

    def crash(self, worker: Worker, *, counts: bool = True) -> None:
        """Nothing of its code runs any more: what still does, to clear it away, finds every way to the outside cut."""
        worker.dead = True
        if counts:
            self.trace.append(f"{worker}: dies")
        for connection in [c for c in self._reserve.in_use if c.worker is worker]:
            connection.hang_up()
        worker.bury()
        self.workers.remove(worker)
        engine = self._engine_of.pop(worker)
        engine.sync_engine.dispose(close=False)
        self._engines.append(engine)
        self.tally.crashes += counts

    def lay_down(self, worker: Worker) -> BaseException | None:
        """A worker whose flow has ended goes. Returns what its flow failed with, if that was no fault of the outside."""
        failure = worker.failure()
        self.crash(worker, counts=False)
        return failure if failure is not None and not is_database_trouble(failure) else None

    def leases_run_out(self, order_ids: Sequence[str]) -> None:
        """The leases that hold these orders, save for those that somebody is just now writing about."""
        self.trace.append("leases run out")
        self._db.execute(
            "UPDATE lease SET until = now() - interval '1 second' WHERE id IN (SELECT l.id FROM lease l WHERE l.id IN "
            "(SELECT lease_id FROM customer_order WHERE id = ANY(%s)) FOR NO KEY UPDATE SKIP LOCKED)",
            [list(order_ids)],
        )
        self.witness.after_commit("time", {})

    def reservations_run_out(self) -> None:
        self.trace.append("reservations run out")
        self._db.execute(
            "UPDATE reservation SET expires_at = now() - interval '1 second' WHERE order_id IN "
            "(SELECT order_id FROM reservation FOR NO KEY UPDATE SKIP LOCKED)"
        )

    def pauses_end(self) -> None:
        self.trace.append("pauses end")
        self._db.execute(
            "UPDATE customer_order SET not_before = NULL WHERE id IN "
            "(SELECT id FROM customer_order WHERE not_before IS NOT NULL FOR NO KEY UPDATE SKIP LOCKED)"
        )
        self._db.execute(
            "UPDATE attention SET next_retry_at = now() WHERE order_id IN "
            "(SELECT order_id FROM attention WHERE resolved_at IS NULL FOR NO KEY UPDATE SKIP LOCKED)"
        )

    def gateway_behaves(self, **switches: bool) -> None:
        self.trace.append(f"the gateway: {switches}")
        self.ledger.behaviour = self.ledger.behaviour.model_copy(update=switches)

    # -- and in the end

    def finish(self) -> None:
        """Every worker dies, and healthy ones come up. Raises Violation unless every order gets its right outcome."""
        self.end()
        self.tally.different.add(hash((*self._kinds.values(), *self.trace)))
        late = bool(self.wire.in_the_air)
        states = known.states(self._db, self.wire, self._kinds)
        if states <= self._known and not late:
            self.tally.known += 1
            return
        self.recover()
        while self.wire.in_the_air:
            self.request_arrives_late(0)
        self._at_rest()
        if any(order.outcome == "needs_attention" for order in self.witness.orders.values()):
            self._settle_the_desk()
            self._at_rest()
        if not late:
            self._known |= states

    def recover(self) -> None:
        """Healthy workers bring every order to its outcome."""
        for _ in range(_ENOUGH_ROUNDS):
            if all(order.outcome is not None for order in self.witness.orders.values()):
                return
            self.leases_run_out(list(self.witness.orders))
            self.pauses_end()
            self._to_the_end("drain")
        self.fail("healthy workers do not bring every order to its outcome")

    def _at_rest(self) -> None:
        self.check()
        if faults := list(self.witness.at_rest()):
            self.fail("; ".join(faults))

    def _settle_the_desk(self) -> None:
        """The bank takes every refund, and the desk tries again. Raises Violation unless everything that was due is undone."""
        self.gateway_behaves(take_refunds=True)
        self.pauses_end()
        self._to_the_end("retry")
        if left := [order.id for order in self.witness.orders.values() if order.outcome in {None, "needs_attention"}]:
            self.fail(f"{left} could be undone, and are not")

    def _to_the_end(self, kind: str) -> None:
        worker = self.start(kind)
        for _ in range(_ENOUGH_STEPS):
            if worker.ended:
                break
            self.step(worker)
            self.check()
        else:
            self.fail("a healthy worker does not come to an end")
        if (failure := self.lay_down(worker)) is not None:
            self.fail(f"a healthy worker failed: {failure!r}")

    # -- inside

    def _claimed(self, worker: Worker, orders: Sequence[OrderUnderWay]) -> None:
        worker.fences |= {order.id: order.fence for order in orders}
        others = [other for other in self.workers if other is not worker]
        self.tally.overtaken += sum(order.id in other.fences for order in orders for other in others)

    def _new_engine(self) -> AsyncEngine:
        made: list[AsyncEngine] = []
        loop_engine = Worker("warming up", lambda: self._warm(made))
        loop_engine.loop.settle()
        error = loop_engine.failure() if loop_engine.ended else AssertionError("an engine does not come up")
        loop_engine.loop.close()
        if error:
            raise error
        return made[0]

    async def _warm(self, made: list[AsyncEngine]) -> None:
        """An engine asks PostgreSQL about itself first; that is no part of any history."""
        options = {**shop.database._OPTIONS, "pool_size": 10, "max_overflow": 10}
        options["connect_args"] = {**options["connect_args"], "async_creator_fn": self._connect}
        engine = create_async_engine(settings().database_url, **options)
        worker = current()
        assert worker is not None
        worker.warming = True  # type: ignore[attr-defined]
        async with engine.begin():
            pass
        engine.sync_engine.dispose(close=False)
        made.append(engine)

    async def _connect(self, *_: Any, **options: Any) -> Connection:
        worker = current()
        if worker is not None and worker.dead:
            raise Dead
        connection = Connection.of(self._reserve, self._committed, options.get("context"))
        if getattr(worker, "warming", False):
            connection.worker = None
        return connection

    def _engine(self, _url: str, **_: Any) -> AsyncEngine:
        worker = current()
        assert worker is not None
        return self._engine_of[worker]

    def _committed(self, worker: Worker) -> None:
        self.witness.after_commit(repr(worker), worker.fences)

