"""Everything that can happen, in any sequence. After each step all promises are checked;
in the end every order must have its outcome."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model.orders import IDS, KINDS
from tests.model.trouble import Trouble
from tests.model.worker import Worker
from tests.model.world import World

_MOST_WORKERS = 3
_LONG = 18
"""Awaits after which most orders have come to their end."""
_FLOWS = [
    "order",
    "consumer",
    "ask",
    "expiry",
    "order",
    "consumer",
    "recovery",
    "retry",
    "order",
    "consumer",
    "ask",
    "cancel",
    "customer",
]
_kind = st.sampled_from(list(KINDS))
_other = st.none() | _kind
_flow = st.sampled_from(_FLOWS)
_which = st.integers(0, _MOST_WORKERS - 1)
_awaits = st.integers(0, _LONG)


class AnyHistory(RuleBasedStateMachine):
    """Workers that come and die, orders that are sent again and cancelled,
    a gateway that forgets; `world` is given by the test.

    No rule asks how far things are before it is drawn, so that a history can be drawn again.
    """

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.begun = False

    # -- orders and workers come

    @initialize(kind=_kind, other=_other, forgets=st.booleans(), fine=st.integers(0, 3))
    def orders_come(self, kind: str, other: str | None, forgets: bool, fine: int) -> None:
        self.begun = True
        self.world.begin(dict(zip(IDS, filter(None, (kind, other)), strict=False)), fine=fine == 1)
        self.world.gateway_behaves(forget_keys=forgets)

    # -- workers continue, in any interleaving

    @rule(turns=st.binary(min_size=1, max_size=6))
    def workers_go_on(self, turns: bytes) -> None:
        """Each byte says who, how far, and (if it waits for several things at once) which way."""
        for turn in turns:
            rest, which = divmod(turn, _MOST_WORKERS)
            pick, awaits = divmod(rest, 8)
            self._advance(self._worker(which), awaits + 1, pick)

    @rule(which=_which, awaits=_awaits, leases=st.integers(0, 3), flow=_flow, its=_awaits, then=_awaits)
    def somebody_comes_between(
        self, which: int, awaits: int, leases: int, flow: str, its: int, then: int
    ) -> None:
        """A worker goes some way, and another comes; perhaps to take over, because leases run out: their
        holders may be dead, or only slow, as this one is."""
        slow = self._worker(which)
        self._advance(slow, awaits)
        if leases:
            self.world.leases_run_out()
        if flow == "expiry":
            self.world.reservations_run_out()
        if len(self.world.workers) < _MOST_WORKERS:
            self._advance(self.world.start(flow, which), its)
        if slow in self.world.workers:
            self._advance(slow, then)

    @rule(which=_which, awaits=_awaits, seconds=st.sampled_from([2, 20, 61]), then=_awaits)
    def time_passes(self, which: int, awaits: int, seconds: int, then: int) -> None:
        """For one worker: its pauses end, its time limits pass, its lease is renewed."""
        worker = self._worker(which)
        self._advance(worker, awaits)
        if worker in self.world.workers:
            self.world.sleep(worker, seconds)
            self._look()
            self._advance(worker, then)

    # -- and things go wrong

    @rule(which=_which, awaits=_awaits)
    def a_worker_dies(self, which: int, awaits: int) -> None:
        worker = self._worker(which)
        self._advance(worker, awaits)
        if worker in self.world.workers:
            self.world.crash(worker)
        self._look()

    @rule(which=_which, awaits=_awaits)
    def a_run_is_cancelled(self, which: int, awaits: int) -> None:
        worker = self._worker(which)
        self._advance(worker, awaits)
        if worker in self.world.workers:
            self.world.cancel(worker)
        self._look()

    @rule(which=_which, awaits=_awaits, trouble=st.sampled_from(Trouble), times=st.integers(1, 3))
    def something_fails(self, which: int, awaits: int, trouble: Trouble, times: int) -> None:
        """A request to the gateway, or the connection to the database; perhaps again and again."""
        worker = self._worker(which)
        self._advance(worker, awaits)
        for _ in range(times):
            if worker in self.world.workers and not worker.ended:
                self.world.step(worker, trouble=trouble)
                self._look()

    @rule(
        what=st.sampled_from(["leases", "reservations", "pauses", "late", "forgets", "refunds"]), which=_which
    )
    def meanwhile(self, what: str, which: int) -> None:
        match what:
            case "leases":
                self.world.leases_run_out()
            case "reservations":
                self.world.reservations_run_out()
            case "pauses":
                self.world.pauses_end()
            case "late":
                self.world.request_arrives_late(which)
            case "forgets":
                self.world.gateway_behaves(forget_keys=which > 0)
            case "refunds":
                self.world.gateway_behaves(take_refunds=which > 0)
        self._look()

    # -- what must hold

    def teardown(self) -> None:
        try:
            if self.begun:
                self.world.finish()
        finally:
            self.world.end()

    # -- inside

    def _worker(self, which: int) -> Worker:
        if not self.world.workers:
            self.world.start(("order", "consumer", "consumer")[which], which)
        return self.world.workers[which % len(self.world.workers)]

    def _advance(self, worker: Worker, awaits: int, pick: int = 0) -> None:
        for _ in range(awaits):
            if worker.ended:
                break
            passed = self.world.step(worker, pick)
            self._look()
            if passed is None:
                break  # only time, or another worker, keeps it waiting
        if (
            worker.ended
            and worker in self.world.workers
            and (failure := self.world.lay_down(worker)) is not None
        ):
            self.world.fail(f"{worker} failed: {failure!r}")

    def _look(self) -> None:
        self.world.check()
