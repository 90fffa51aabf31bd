"""Everything that can happen, in any sequence; after each step the witnesses are asked, and in the end every order must have its outcome."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model.orders import IDS, KINDS, order
from tests.model.worker import Worker
from tests.model.world import World

_MOST_WORKERS = 3
_FLOWS = ["order", "drain", "order", "drain", "order", "drain", "recovery", "recovery", "expiry", "customer"]
_which = st.integers(0, _MOST_WORKERS - 1)
_awaits = st.integers(1, 40)
_pick = st.integers(0, 3)


class AnyHistory(RuleBasedStateMachine):
    """Workers that come and die, orders that are sent again, a gateway that forgets; `world` is given by the test.

    No rule asks how far things are before it is drawn, so that a history can be drawn again.
    """

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, str] = {}
        self.world.begin()

    # -- orders and workers come

    @initialize(kinds=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=len(IDS)), forgets=st.booleans())
    def orders_come(self, kinds: list[str], forgets: bool) -> None:
        self.kinds = dict(zip(IDS, kinds, strict=False))
        self.world.gateway_forgets(forgets)
        self.world.submit([order(i, kind) for i, kind in self.kinds.items()])

    @rule(flow=st.sampled_from(_FLOWS), which=st.sampled_from(IDS), taking_over=st.booleans(), awaits=_awaits)
    def a_worker_comes(self, flow: str, which: str, taking_over: bool, awaits: int) -> None:
        """`taking_over`: because leases have run out; their holders may be dead, or only slow."""
        if len(self.world.workers) == _MOST_WORKERS:
            return
        if taking_over:
            self.world.leases_run_out(IDS)
        which = which if which in self.kinds else IDS[0]
        self._go_on(self.world.start(flow, order(which, self.kinds[which])), awaits)

    # -- workers go on, in any interleaving

    @rule(turns=st.lists(st.tuples(_which, _awaits, _pick), min_size=1, max_size=8))
    def workers_go_on(self, turns: list[tuple[int, int, int]]) -> None:
        for which, awaits, pick in turns:
            self._go_on(self._worker(which), awaits, pick)

    @rule(turns=st.lists(st.tuples(_which, st.integers(1, 4), _pick), min_size=8, max_size=24))
    def workers_take_turns(self, turns: list[tuple[int, int, int]]) -> None:
        self.workers_go_on(turns)

    @rule(which=_which, seconds=st.sampled_from([2, 20, 61]))
    def time_passes(self, which: int, seconds: int) -> None:
        """For one worker: its pauses end, its time limits pass, its lease is renewed."""
        self._worker(which).sleep(seconds)
        self._look()

    # -- and things go wrong

    @rule(which=_which, awaits=st.integers(0, 40))
    def a_worker_dies(self, which: int, awaits: int) -> None:
        worker = self._worker(which)
        self._go_on(worker, awaits)
        if worker in self.world.workers:
            self.world.crash(worker)
        self._look()

    @rule(which=st.sampled_from(IDS))
    def a_lease_runs_out(self, which: str) -> None:
        """Its worker may be dead, or only slow."""
        self.world.leases_run_out([which])
        self._look()

    @rule(which=_which)
    def a_run_is_cancelled(self, which: int) -> None:
        self._worker(which).cancel()
        self._look()

    @rule(which=_which, awaits=st.integers(0, 40), pick=_pick, trouble=st.sampled_from(["timeout", "error"]))
    def something_fails(self, which: int, awaits: int, pick: int, trouble: str) -> None:
        """A request to the gateway, or the connection to the database: before it arrives, or after, unanswered."""
        worker = self._worker(which)
        self._go_on(worker, awaits)
        if worker in self.world.workers:
            self.world.step(worker, pick, trouble)
            self._look()

    @rule(what=st.sampled_from(["late request", "reservations run out", "pauses end", "gateway forgets", "gateway remembers"]), which=_which)
    def meanwhile(self, what: str, which: int) -> None:
        match what:
            case "late request":
                self.world.wire.arrives_late(which)
            case "reservations run out":
                self.world.reservations_run_out()
            case "pauses end":
                self.world.pauses_end()
            case _:
                self.world.gateway_forgets(what == "gateway forgets")
        self._look()

    # -- what must hold

    def teardown(self) -> None:
        try:
            self.world.recover()
            while self.world.wire.in_the_air:
                self.world.wire.arrives_late(0)
            self._look()
            if faults := list(self.world.witness.at_rest()):
                self.world.fail("; ".join(faults))
        finally:
            self.world.end()

    # -- inside

    def _worker(self, which: int) -> Worker:
        if not self.world.workers:
            self.world.start(_FLOWS[which], order(IDS[0], self.kinds[IDS[0]]))
        return self.world.workers[which % len(self.world.workers)]

    def _go_on(self, worker: Worker, awaits: int, pick: int = 0) -> None:
        for _ in range(awaits):
            if worker.ended:
                break
            passed = self.world.step(worker, pick)
            self._look()
            if passed is None:
                break  # only time, or another worker, keeps it waiting
        if worker.ended and worker in self.world.workers and (failure := self.world.lay_down(worker)) is not None:
            self.world.fail(f"{worker} failed: {failure!r}")

    def _look(self) -> None:
        self.world.check()
