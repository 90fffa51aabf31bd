"""The crash matrix: a worker is killed at each point of its way,
another takes over, and then money, stock, parcels and mails are checked."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from zlib import crc32

from shop.orders.outcomes import Outcome
from tests.crash.scenarios import AT_STRIPE, SCENARIOS, Scenario
from tests.crash.site import SERVICE, STRIPE, Shop, Site

LANES = ("process_order", "pending")
GATEWAYS = ("remembers", "forgets")
_LEFT = "SELECT 1 FROM customer_order WHERE outcome IS NULL UNION SELECT 1 FROM outbox WHERE sent_at IS NULL"
_MOST_ROUNDS = 3
_SIDE_BY_SIDE = min(
    8, 2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2 * (os.cpu_count() or 2)
)
"""Shops, each with workers that mostly wait, and with connections to one PostgreSQL."""
_BYSTANDERS = ("completes", "paid in the shop", "free", "digital")
_OF_ONE_THAT_FAILS = ("paid elsewhere, cannot be shipped", "paid in part, cannot be shipped", "completes")
"""In the pending lane an order shares its batch, and so these die with it at each of its points."""


@dataclass(frozen=True)
class Way:
    """How a worker gets to its points: in a lane, with a kind of order;
    or by recovering one whose worker was killed before."""

    scenario: str
    lane: str
    died_at: tuple[str, ...] = ()
    """Where the workers before this one die, whose order it recovers."""
    settings: tuple[tuple[str, str], ...] = ()
    outside: bool = False
    """Mails go to a mail server, and contacts to a CRM."""

    def is_about(self, point: str) -> bool:
        """Whether the point has to do with what is outside here or else special,
        and is not elsewhere; all the others are on other ways, too."""
        about = (_CARRIERS if ("CARRIER", "easypost") in self.settings else ()) + (
            _MESSAGES if self.outside else ()
        )
        about += _STOCK if _AT_SERVICE[0] in self.settings else ()
        about += SCENARIOS[self.scenario].about
        return not about or any(word in point for word in about)

    @property
    def turn(self) -> str:
        """In whose turn it is: its lane; those that only few orders take have one together."""
        return self.lane if self.lane in LANES else "another"

    def __str__(self) -> str:
        carrier = ", a carrier outside" if ("CARRIER", "easypost") in self.settings else ""
        stock = ", stock at a service" if _AT_SERVICE[0] in self.settings else ""
        by = ", by SMTP" if self.outside else ""
        return f"{self.lane}, {self.scenario}{carrier}{stock}{by}" + "".join(
            f", after a death {point}" for point in self.died_at
        )


_AFTERWARDS = {
    "sent back": "return",
    "tried again": "retry",
    "settled by a person": "settle",
    "charged after its end": "reconcile",
    "paid twice by half": "reconcile",
    "beside a stranger's payment": "accept",
    "cancelled with its label": "cancelled",
    "notified of a late charge": "event",
    "cancelled with its stock": "cancelled",
    "second try": "second",
    "paid by transfer": "receive",
}
"""What is done with an order that has ended, or waits, by another flow."""
_ON_THEIR_OWN = {"given up", *_AFTERWARDS}
_AT_ONCE = (("RECONCILIATION_GRACE_SECONDS", "0"),)
_CARRIERS = ("label", "carrier", "fulfill_order", "return_shipment", "commit of notes")
_MESSAGES = ("mail", "CRM", "messages", "notify_customer", "outcomes")
_STOCK = ("inventory", "stock", "fulfill_order", "return_shipment", "commit of notes")
_OUTSIDE = (("CARRIER", "easypost"),)
"""With a carrier outside."""
_AT_SERVICE = (("INVENTORY_SERVICE_URL", SERVICE),)
"""With the stock at an inventory service."""
FIRST = (
    *(
        Way(scenario, lane)
        for scenario in SCENARIOS
        for lane in LANES
        if scenario not in {*_ON_THEIR_OWN, *_BYSTANDERS[1:], *_OF_ONE_THAT_FAILS[:-1]}
    ),
    *(
        Way(scenario, lane, settings=_AT_ONCE)
        for scenario, lane in _AFTERWARDS.items()
        if lane != "cancelled"
    ),
    *(
        Way(scenario, lane, settings=_OUTSIDE)
        for scenario in ("completes", "cannot be shipped")
        for lane in LANES
    ),
    Way("sent back", "return", settings=_OUTSIDE),
    Way("cancelled with its label", "cancelled", settings=_OUTSIDE),
    *(
        Way(scenario, lane, settings=_AT_SERVICE)
        for scenario in ("completes", "cannot be shipped", "sold out")
        for lane in LANES
    ),
    Way("sent back", "return", settings=_AT_SERVICE),
    Way("cancelled with its stock", "cancelled", settings=_AT_SERVICE),
    Way("second try", "second", settings=_AT_SERVICE),
    Way("completes", "process_order", outside=True),
    Way("declined", "pending", outside=True),
)
RECOVERIES = (
    Way("completes", "recover", ("after creating a payment",)),
    Way("completes", "pending", ("after confirming a payment",)),
    Way("completes", "recover", ("before the record of fulfill_order",)),
    Way("cannot be shipped", "recover", ("after refunding a payment",)),
    Way("cannot be shipped", "pending", ("after the commit of failures",)),
    Way("completes", "recover", ("after the record of notify_customer",)),
    Way("completes", "recover", ("after asking the carrier for a quote",), _OUTSIDE),
    Way("completes", "recover", ("after buying a label",), _OUTSIDE),
    Way("completes", "pending", ("before the record of fulfill_order, result",), _OUTSIDE),
    Way("completes", "recover", ("after reserving at the inventory service",), _AT_SERVICE),
    Way("completes", "pending", ("after committing at the inventory service",), _AT_SERVICE),
    Way("cannot be shipped", "recover", ("after releasing at the inventory service",), _AT_SERVICE),
    Way("paid in the shop, cannot be shipped", "recover", ("after the commit of a payment's adoption",)),
    # An order that kills every worker is given up: what was only created is cancelled.
    Way(
        "given up",
        "recover",
        ("after creating a payment", "before confirming a payment"),
        (("MAX_TAKEOVERS", "1"),),
    ),
)


@dataclass(frozen=True)
class Case:
    """One death."""

    point: str
    way: Way
    gateway: str

    def __str__(self) -> str:
        return f"{self.point} [{self.way}; the gateway {self.gateway}]"


@dataclass(frozen=True)
class Result:
    case: Case
    problem: str | None
    recovery_seconds: float
    outcomes: tuple[Outcome, ...] = ()


def passed(site: Site, way: Way) -> list[str]:
    """The failpoints that a worker passes in this scenario if it is not killed."""
    with site.shop("remembers", outside=way.outside, **dict(way.settings)) as shop:
        note = shop.world.var_dir / "passed"
        _run(shop, way, passed=str(note))
        return list(dict.fromkeys(note.read_text().splitlines())) if note.exists() else []


def all_passed(site: Site, ways: Sequence[Way]) -> list[tuple[Way, list[str]]]:
    """Each way, with the points on it."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        return list(zip(ways, threads.map(lambda way: passed(site, way), ways), strict=True))


def cases(
    ways: Iterable[tuple[Way, Sequence[str]]], *, every: bool, but: Iterable[str] = ()
) -> Iterator[Case]:
    """With `every`: each point on each way, with each gateway (with Stripe where money moves), except that a
    lane need not be walked to the same point twice.
    Without: each point once (`but` these), lanes, ways and gateways in turn."""
    return _all(ways) if every else _each_once(ways, set(but))


def _all(ways: Iterable[tuple[Way, Sequence[str]]]) -> Iterator[Case]:
    seen: set[tuple[object, ...]] = set()
    for way, points in ways:
        for point in filter(way.is_about, points):
            special = way.scenario if SCENARIOS[way.scenario].about else ""
            key = (point, way.lane, special, way.outside, *way.died_at, *way.settings)
            if key not in seen:
                seen.add(key)
                yield from (Case(point, way, gateway) for gateway in _gateways(point, way))


def _each_once(ways: Iterable[tuple[Way, Sequence[str]]], but: Collection[str]) -> Iterator[Case]:
    """Of all ways to a point the one that has had the fewest so far, in the lane that has; and so with the
    gateways. The points come in a sequence in which before and after are mixed,
    and which is always the same."""
    to: dict[str, list[Way]] = {}
    for way, points in ways:
        for point in filter(way.is_about, points):
            to.setdefault(point, []).append(way)
    had: Counter[object] = Counter()
    for point in sorted(to.keys() - but, key=lambda point: crc32(point.encode())):
        way = min(to[point], key=lambda way: (had[way.turn], had[way]))
        offered, when = _gateways(point, way), point.split()[0]
        gateway = min(offered, key=lambda gateway: (had[offered, when, gateway], had[way.turn, gateway]))
        had.update([way, way.turn, (offered, when, gateway), (way.turn, gateway)])
        yield Case(point, way, gateway)


def _gateways(point: str, way: Way) -> tuple[str, ...]:
    return (*GATEWAYS, STRIPE) if "payment" in point and way.scenario in AT_STRIPE else GATEWAYS


def run_all(
    site: Site, chosen: Sequence[Case], on_result: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Some at a time."""

    def run(case: Case) -> Result:
        result = _case(site, case)
        on_result(result)
        return result

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        return list(threads.map(run, chosen))


def _case(site: Site, case: Case) -> Result:
    begin = time.monotonic()
    try:
        with site.shop(case.gateway, outside=case.way.outside, **dict(case.way.settings)) as shop:
            orders, status, recovered_from = _run(shop, case.way, kill_at=case.point)
            if status != -9:
                return Result(case, "the point was not reached", 0)
            begin = time.monotonic()
            shop.time_passes()
            # A submission or decision without an answer is repeated.
            shop.work(case.way.lane if case.way.lane in _AFTERWARDS.values() else "pending", recovered_from)
            took = time.monotonic() - begin
            _end_remaining(shop)
            shop.check(orders)
    except (AssertionError, TimeoutError) as error:
        return Result(case, f"{type(error).__name__}: {error}", time.monotonic() - begin)
    return Result(case, None, took, tuple(scenario.outcome for scenario in orders.values()))


def _end_remaining(shop: Shop) -> None:
    """An order may have been postponed, by a gateway that was too slow just then;
    and other flows leave mails to the pending lane."""
    for _ in range(_MOST_ROUNDS):
        if not shop.world.sql(_LEFT):
            return
        shop.time_passes()
        shop.work("pending")


def _run(shop: Shop, way: Way, **options: str) -> tuple[dict[str, Scenario], int, list[dict[str, object]]]:
    scenario = SCENARIOS[way.scenario]
    alone = way.lane in {"process_order", *_AFTERWARDS.values()} or way.died_at
    beside = _OF_ONE_THAT_FAILS if scenario.adopts else _BYSTANDERS
    sent, orders = shop.some_orders(scenario, *(() if alone else (SCENARIOS[name] for name in beside)))
    if not way.died_at:
        if scenario.fail_at:
            options["fail_at"] = scenario.fail_at
        return orders, shop.work(way.lane, sent, **options), sent
    for point in way.died_at:
        assert shop.work("process_order", sent, kill_at=point) == -9, f"{point} was not reached"
        shop.time_passes()
    return orders, shop.work(way.lane, [], **options), sent
