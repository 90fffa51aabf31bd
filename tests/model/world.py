"""Several simulated workers, one database, one gateway; and what can happen to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NoReturn
from unittest.mock import patch

import saga.checkpoints
import saga.claims
import saga.database
import shop.payments.gateways
from saga.database import Tx, after_commit, is_database_error, sync_engine
from shop.orders.order import OrderInstance
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger
from shop.settings import settings
from tests.model import known
from tests.model.engines import Engines
from tests.model.gateway import Gateway, Wire
from tests.model.orders import IDS
from tests.model.outcome_counter import OutcomeCounter
from tests.model.stories import Story, story
from tests.model.tables import Tables
from tests.model.trouble import Trouble
from tests.model.without_prefect import Surprises, without_prefect
from tests.model.witness import UNFORESEEN, Witness
from tests.model.worker import Point, Worker, current

_ENOUGH_ROUNDS = 20
_ENOUGH_AWAITS = 500
_LAST_LINES, _WIDTH = 120, 130


class Violation(AssertionError):
    """A promise was broken."""


def _shortened(trace: Sequence[str]) -> str:
    return "\n".join(" ".join(line.split())[:_WIDTH] for line in trace[-_LAST_LINES:])


def _emptied(ledger: Ledger) -> Ledger:
    """Making a new one takes ten times as long."""
    for table in ("payments", "refunds", "answers", "processing"):
        ledger._db.execute(f"DELETE FROM {table}")
    ledger.behaviour = Behaviour()
    return ledger


class World:
    """Made once; `begin` empties it for the next history."""

    def __init__(self, url: str) -> None:
        self._stack = ExitStack()
        self._tables = self._stack.enter_context(closing(Tables(url)))
        self._engines = self._stack.enter_context(closing(Engines(url, self._committed)))
        self.ledger = Ledger(None)
        self.witness = self._stack.enter_context(closing(Witness(url, self.ledger)))
        self.workers: list[Worker] = []
        self.outcome_counter = OutcomeCounter()
        self.trace: list[str] = []
        """What was passed, in its sequence."""
        self.violations: list[str] = []
        self._surprises = Surprises()
        self._last: Worker | None = None
        self._number = 0
        self._kinds: Mapping[str, str] = {}
        self._fine = False
        self._known: set[bytes] = set()
        self._replace()

    def _replace(self) -> None:
        real_claim = saga.claims.claim

        async def claim(tx: Tx, *arguments: Any, **options: Any) -> list[OrderInstance]:
            claimed, worker = await real_claim(tx, *arguments, **options), current()
            if worker is not None:
                after_commit(tx, lambda: self._claimed(worker, claimed))
            return claimed

        enter = self._stack.enter_context
        enter(without_prefect())
        enter(patch.object(saga.database, "create_async_engine", self._engines.mine))
        enter(patch.object(saga.claims, "claim", claim))
        surprising = {"prefect.orders", "prefect.saga", "saga.execution"}
        for name in (*surprising, "sqlalchemy.pool", "saga.lease", "shop.completed"):
            logger = logging.getLogger(name)
            enter(
                patch.object(
                    logger,
                    "handlers",
                    [self._surprises] if name in surprising else [],
                )
            )
            enter(patch.object(logger, "propagate", False))

    def close(self) -> None:
        self.end()
        self._stack.close()
        sync_engine(settings().database_url).dispose()

    # -- a history

    def begin(self, kinds: Mapping[str, str], *, fine: bool = False) -> None:
        """Nothing is there but stock, and orders (id to kind).
        `fine`: workers can be stopped at every statement."""
        self._kinds, self._fine = kinds, fine
        self._tables.begin(kinds)
        self.ledger = _emptied(self.ledger)
        self.wire = Wire(self.ledger, self.witness.after_request)
        self.witness.begin(self.ledger)
        self.witness.after_commit("a customer", {})
        self._surprises.unforeseen.clear()
        self.trace = []
        self._number, self._last = 0, None
        self.outcome_counter.histories += 1
        self.outcome_counter.orders += len(kinds)

    def end(self) -> None:
        """Whatever became of the history: all workers are gone."""
        for worker in list(self.workers):
            self.crash(worker, counts=False)

    def check(self) -> None:
        """Raises Violation if anything is not as it must be."""
        faults = [
            *self.witness.faults,
            *(f"{UNFORESEEN}: {surprise}" for surprise in self._surprises.unforeseen),
        ]
        if faults:
            self.fail("; ".join(faults))

    def fail(self, what: str) -> NoReturn:
        """Raises Violation, with what was passed last."""
        self.violations.append(what)
        raise Violation(f"{what}\nWhat came before:\n{_shortened(self.trace)}")

    # -- what can happen

    def start(self, name: str, which: int = 0) -> Worker:
        """A worker comes up, and does what is called so (`stories.py`), about one of the orders."""
        order_id = list(self._kinds)[which % len(self._kinds)]
        self._number += 1
        chosen = self._with_gateway(story(name, order_id, self._kinds[order_id]))
        worker = Worker(f"{name} {self._number}", chosen, fine=self._fine)
        worker.order = order_id if name == "order" else None
        self._engines.give(worker)
        self.workers.append(worker)
        worker.loop.settle()
        return worker

    def _with_gateway(self, chosen: Story) -> Story:
        async def run() -> Any:
            worker = current()
            assert worker is not None
            shop.payments.gateways.use(Gateway(worker, self.wire))
            return await chosen()

        return run

    def step(self, worker: Worker, pick: int = 0, trouble: Trouble | None = None) -> Point | None:
        if worker is not self._last:
            self.outcome_counter.switches += 1
            self._last = worker
        self.outcome_counter.awaits += 1
        ready = worker.ready
        what = ready[pick % len(ready)].what if ready else "..."
        self.trace.append(f"{worker}: {what}{f' ({trouble})' if trouble else ''}")
        return worker.step(pick, trouble)

    def sleep(self, worker: Worker, seconds: float) -> None:
        """Time passes for one worker."""
        self.trace.append(f"{worker}: {seconds:.0f} s")
        worker.sleep(seconds)

    def cancel(self, worker: Worker) -> None:
        self.trace.append(f"{worker}: is cancelled")
        order = self.witness.orders.get(worker.order or "")
        if (
            order is not None
            and order.outcome is None
            and order.parcel is None
            and order.fence == worker.fences.get(order.id)
        ):
            worker.withdraws = order.id
        worker.cancel()

    def request_arrives_late(self, number: int) -> None:
        self.trace.append(f"late: {self.wire.arrives_late(number)}")

    def crash(self, worker: Worker, *, counts: bool = True) -> None:
        """Nothing of its code runs any more: what still does,
        to clear it away, finds every way to the outside cut."""
        worker.dead = True
        if counts:
            self.trace.append(f"{worker}: dies")
        self._engines.cut(worker)
        worker.clean_up()
        for kept in (
            saga.database._engines,
            saga.checkpoints._writers,
            shop.payments.gateways._open,
        ):  # what is kept for a loop keeps the loop
            kept.pop(worker.loop, None)
        self.workers.remove(worker)
        self._engines.take_back(worker)
        self.outcome_counter.crashes += counts

    def lay_down(self, worker: Worker) -> BaseException | None:
        """A worker whose flow has ended goes.
        Returns what its flow failed with, if that was no fault of the outside."""
        if worker.withdraws is not None:
            order = self.witness.orders[worker.withdraws]
            if not (order.cancelled or order.failure or order.outcome or order.parcel):
                self.fail(f"{order.id}: its run was cancelled, and it goes forward")
        failure = worker.failure()
        self.crash(worker, counts=False)
        return failure if failure is not None and not is_database_error(failure) else None

    def leases_run_out(self) -> None:
        """All of them: their holders may be dead, or only slow."""
        self.trace.append("leases run out")
        self._tables.leases_run_out(IDS)
        self.witness.after_commit("time", {})

    def reservations_run_out(self) -> None:
        self.trace.append("reservations run out")
        self._tables.reservations_run_out()

    def pauses_end(self) -> None:
        self.trace.append("pauses end")
        self._tables.pauses_end()

    def gateway_behaves(self, **switches: bool) -> None:
        self.trace.append(f"the gateway: {switches}")
        self.ledger.behaviour = self.ledger.behaviour.model_copy(update=switches)

    # -- and in the end

    def finish(self) -> None:
        """Every worker dies, and healthy ones come up.
        Raises Violation unless every order gets its right outcome."""
        self.end()
        self.outcome_counter.different.add(hash((*self._kinds.values(), *self.trace)))
        late = bool(self.wire.in_the_air)
        states = known.states(self._tables.db, self.wire, self._kinds)
        if states <= self._known and not late:
            self.outcome_counter.known += 1
            return
        self.recover()
        while self.wire.in_the_air:
            self.request_arrives_late(0)
        self._at_rest()
        if any(order.outcome == "needs_attention" for order in self.witness.orders.values()):
            self._settle_reviews()
            self._at_rest()
        if not late:
            self._known |= states

    def recover(self) -> None:
        """Healthy workers bring every order to its outcome."""
        for _ in range(_ENOUGH_ROUNDS):
            if all(order.outcome is not None for order in self.witness.orders.values()):
                return
            self.leases_run_out()
            self.pauses_end()
            self._to_the_end("consumer")
        self.fail("healthy workers do not bring every order to its outcome")

    def _at_rest(self) -> None:
        self.check()
        if faults := list(self.witness.at_rest()):
            self.fail("; ".join(faults))

    def _settle_reviews(self) -> None:
        """The bank accepts every refund, and manual review retries.
        Raises Violation unless everything that was due is undone."""
        self.gateway_behaves(take_refunds=True)
        self.pauses_end()
        self._to_the_end("retry")
        if left := [
            order.id for order in self.witness.orders.values() if order.outcome in {None, "needs_attention"}
        ]:
            self.fail(f"{left} could be undone, and are not")

    def _to_the_end(self, kind: str) -> None:
        worker = self.start(kind)
        for _ in range(_ENOUGH_AWAITS):
            if worker.ended:
                break
            self.step(worker)
            self.check()
        else:
            self.fail("a healthy worker does not come to an end")
        if (failure := self.lay_down(worker)) is not None:
            self.fail(f"a healthy worker failed: {failure!r}")

    # -- inside

    def _claimed(self, worker: Worker, orders: Sequence[OrderInstance]) -> None:
        worker.fences |= {order.id: order.fence for order in orders}
        others = [other for other in self.workers if other is not worker]
        self.outcome_counter.overtaken += sum(
            order.id in other.fences for order in orders for other in others
        )

    def _committed(self, worker: Worker) -> None:
        self.witness.after_commit(repr(worker), worker.fences)
