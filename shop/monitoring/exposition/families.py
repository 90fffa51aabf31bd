"""The series: what was read, as Prometheus' metric families. Names and labels are in `docs/metrics.md`; the tests compare.

Labels have few values, whatever orders contain: steps, outcomes, codes of our own errors, ISO currencies. No ids, nothing of customers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from shop import errors
from shop.database import pool_use
from shop.errors import (
    CarrierTimeout,
    CarrierUnavailable,
    InfrastructureTrouble,
    InventoryTimeout,
    InventoryUnavailable,
    OrderError,
    PaymentGatewayUnavailable,
    PaymentNeedsCustomer,
    UnknownStep,
)
from shop.money import is_currency
from shop.monitoring.cells import _middle
from shop.monitoring.commands import REFUSALS
from shop.monitoring.exposition.now import Now
from shop.monitoring.exposition.reading import Read
from shop.monitoring.exposition.totals import Total
from shop.monitoring.put_off import PUT_OFF
from shop.notifications.outbox import CONFIRMATION_STEP
from shop.outcomes import Outcome

PREFIX = "order_saga"
STEP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
ORDER_BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21_600, 86_400)
OTHER = "other"
_MOST_WRITERS = 20
_AWAY = tuple(
    error.code
    for error in (
        PaymentGatewayUnavailable,
        PaymentNeedsCustomer,
        InventoryUnavailable,
        InventoryTimeout,
        CarrierUnavailable,
        CarrierTimeout,
        InfrastructureTrouble,
        UnknownStep,
    )
)
"""What orders are put off for: told also when there are none."""
_OPEN_STATES = ("waiting", "held", "put_off", "left_behind")
_OUTBOX_STATES = ("waiting", "failing", "refused")
_CODES = frozenset(
    each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, OrderError) and each.code != OrderError.code
)


def shop_families(read: Read) -> Iterator[Metric]:
    """Of a shop's orders."""
    yield from _totals(read.totals)
    yield from _orders_now(read.now)
    yield from _money_now(read.now)
    yield from _others_now(read.now)


def inventory_families(read: Read) -> Iterator[Metric]:
    """Of a stock."""
    found = read.now.inventory
    yield _gauge("inventory_products", "Products in the catalogue.", found.products)
    yield _gauge("inventory_products_sold_out", "Products of which nothing can be reserved.", found.sold_out)
    pieces = GaugeMetricFamily(f"{PREFIX}_inventory_pieces", "Pieces: on the shelf, and of those reserved.", labels=["state"])
    pieces.add_metric(["on_hand"], float(found.on_hand))
    pieces.add_metric(["reserved"], float(found.reserved))
    yield pieces


def reading_families(read: Read | None) -> Iterator[Metric]:
    """Whether there is anything to tell."""
    yield _gauge(
        "database_up", "1 if the database answered when metrics were last read from it; else what is read from it is missing.", read
    )
    if read is not None:
        yield _gauge("database_read_seconds", "How long reading the metrics from the database took.", read.seconds)


def process_families(kind: str) -> Iterator[Metric]:
    """Of the process that is asked."""
    info = GaugeMetricFamily(f"{PREFIX}_process_info", "1, for the kind of process that answers.", labels=["kind"])
    info.add_metric([kind], 1)
    yield info
    use = pool_use()
    connections = GaugeMetricFamily(
        f"{PREFIX}_pool_connections", "Connections to the database that the process that answers has open.", labels=["state"]
    )
    connections.add_metric(["in_use"], use.in_use)
    connections.add_metric(["idle"], use.open - use.in_use)
    yield connections
    yield _gauge("pool_connections_limit", "How many it may have.", use.most)


def _totals(totals: Sequence[Total]) -> Iterator[Metric]:
    of: dict[str, list[Total]] = defaultdict(list)
    for each in totals:
        of[each.kind].append(each)
    yield _counter(
        "orders", "Orders that ended, by outcome.", ["outcome"], of["order"], lambda t: (t.result,), [(str(o),) for o in Outcome]
    )
    timed = [t for t in of["order"] if t.result != Outcome.NEEDS_ATTENTION]
    yield _histogram("order_duration", "From submission to outcome.", ["outcome"], timed, lambda t: (t.result,), ORDER_BOUNDS)
    steps, undos = of["step"], of["undo"]
    ended, undone = ([t for t in each if t.result != PUT_OFF] for each in (steps, undos))
    what = (
        "Steps that ended. refused: a business no, such as a declined card; failed: a fault; put_off: a try that is made again once "
        "something outside is back."
    )
    yield _counter("steps", what, ["step", "result", "code"], steps, lambda t: (t.name, _result(t), _code(t)))
    what = "From a step's first beginning to its end, pauses between attempts included."
    yield _histogram("step_duration", what, ["step"], ended, lambda t: (t.name,), STEP_BOUNDS)
    what = "Attempts after the first, of steps that are done or were given up."
    yield _counter("step_retries", what, ["step"], of["step retry"], lambda t: (t.name,), sorted({(t.name,) for t in steps}))
    what = "Compensations that ended, by the step that they undo. failed: still due; put_off: tried again once the other side is back."
    yield _counter("compensations", what, ["step", "result"], undos, lambda t: (t.name, t.result))
    yield _histogram("compensation_duration", "From the first try to the end.", ["step"], undone, lambda t: (t.name,), STEP_BOUNDS)
    what = "Attempts after the first, of compensations that are done."
    yield _counter("compensation_retries", what, ["step"], of["undo retry"], lambda t: (t.name,), sorted({(t.name,) for t in undos}))
    written = [t for t in steps if t.name == CONFIRMATION_STEP and t.result == "done"]
    most = {writer for (writer,), _ in _by(written, lambda t: (t.code,)).most_common(_MOST_WRITERS)}
    what = "Confirmations by who wrote them: template, or the language model's name."
    yield _counter("confirmations", what, ["writer"], written, lambda t: ((t.code or "unknown") if t.code in most else OTHER,))
    sent = of["message"]
    yield _counter("messages_sent", "Mails and messages to the CRM that were sent, by kind.", ["kind"], sent, lambda t: (t.name,))
    what = "From when a message was due to when it was sent."
    yield _histogram("message_delay", what, ["kind"], sent, lambda t: (t.name,), ORDER_BOUNDS)
    what = "Attempts after the first, of messages that were sent."
    yield _counter("message_retries", what, ["kind"], of["message retry"], lambda t: (t.name,), sorted({(t.name,) for t in sent}))


def _orders_now(now: Now) -> Iterator[Metric]:
    rows = {row.state: row for row in now.open}
    what = (
        "Orders without an outcome. waiting: nobody's; held: a worker has it; put_off: it waits for something outside, or its customer; "
        "left_behind: its worker died, and nobody has taken it over yet."
    )
    states = GaugeMetricFamily(f"{PREFIX}_open_orders", what, labels=["state"])
    for state in _OPEN_STATES:
        states.add_metric([state], rows[state].orders if state in rows else 0)
    yield states
    yield _gauge("orders_being_undone", "Of those without an outcome.", sum(row.undoing for row in now.open))
    what = "Age of the oldest order without an outcome, apart from those on the desk; 0 if there is none."
    yield _gauge("oldest_open_order_age_seconds", what, max((row.age or 0 for row in now.open), default=0))
    what = "For how long the order that waits longest for recovery has been nobody's; 0 if there is none."
    yield _gauge("left_behind_age_seconds", what, max((row.since_over or 0 for row in now.open), default=0))
    why = GaugeMetricFamily(f"{PREFIX}_put_off_orders", "Orders that are put off, by the code of what they wait for.", labels=["code"])
    waiting = Counter(dict.fromkeys(_AWAY, 0))
    for row in now.put_off:
        waiting[_known(row.code)] += row.orders
    for code, orders in sorted(waiting.items()):
        why.add_metric([code], orders)
    yield why


def _money_now(now: Now) -> Iterator[Metric]:
    desk = GaugeMetricFamily(
        f"{PREFIX}_needs_attention_orders", "Orders on the desk, by the step that could not be undone.", labels=["step"]
    )
    for (step,), orders in sorted(_sums(((row.step,), row.orders) for row in now.desk).items()):
        desk.add_metric([step], orders)
    yield desk
    yield _gauge(
        "desk_orders", "Orders on the desk: a compensation could not be done, and a person must act.", sum(r.orders for r in now.desk)
    )
    yield _gauge("disputes_open", "Charges that customers' banks dispute.", now.others.disputes)
    yield _amounts("at_risk_amount", "Charged and neither earned nor given back: of orders on the desk.", now.desk, "at_risk")
    yield _gauge("refunds_owed_orders", "Orders whose money is to be given back.", sum(row.orders for row in now.refunds))
    what = "Money that is to be given back: what is at risk, and what is just being returned."
    yield _amounts("refunds_owed_amount", what, now.refunds, "amount")


def _others_now(now: Now) -> Iterator[Metric]:
    rows = {row.state: row for row in now.outbox}
    what = "Messages that are not sent. failing: tried in vain, and tried again; refused: the other side will not have it."
    outbox = GaugeMetricFamily(f"{PREFIX}_outbox_messages", what, labels=["state"])
    for state in _OUTBOX_STATES:
        outbox.add_metric([state], rows[state].messages if state in rows else 0)
    yield outbox
    what = "Age of the oldest message that is still to be sent; 0 if there is none."
    yield _gauge("outbox_oldest_age_seconds", what, max((row.age or 0 for row in now.outbox), default=0))
    yield _gauge("payment_events_waiting", "Events of the gateway that are not handled yet.", now.others.payment_events)
    yield _gauge("leases", "Runs that may work on orders now.", now.others.leases)
    what = "Long-running processes. lost: silent for three times as long as it may be, in the last hour."
    processes = GaugeMetricFamily(f"{PREFIX}_processes", what, labels=["kind", "state"])
    for (kind, state), number in sorted(
        {("worker", "alive"): 0, ("drain", "alive"): 0, **{(row.kind, row.state): row.processes for row in now.processes}}.items()
    ):
        processes.add_metric([kind, state], number)
    yield processes
    alive = [row for row in now.processes if row.state == "alive"]
    yield _by_kind("processes_cpu_cores", "Cores that they use together, by their last samples.", alive, "cpu")
    yield _by_kind("processes_memory_bytes", "Memory that they use together.", alive, "memory")
    yield _by_kind("processes_database_connections", "Connections to the database that they have in use together.", alive, "in_use")
    yield _by_kind("processes_database_connections_limit", "How many they may have together.", alive, "most")


def _gauge(name: str, what: str, value: object) -> Metric:
    number = float(value is not None) if value is None or isinstance(value, Read) else float(value)  # type: ignore[arg-type]
    return GaugeMetricFamily(f"{PREFIX}_{name}", what, value=number)


def _by_kind(name: str, what: str, rows: Iterable[object], column: str) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", what, labels=["kind"])
    for row in rows:
        if (value := getattr(row, column)) is not None:
            family.add_metric([row.kind], float(value))  # type: ignore[attr-defined]
    return family


def _amounts(name: str, what: str, rows: Iterable[object], column: str) -> Metric:
    """In the currency's own unit, dollars and not cents. What is no currency is not told apart."""
    family = GaugeMetricFamily(f"{PREFIX}_{name}", what, labels=["currency"])
    found = _sums(((_currency(row.currency),), float(getattr(row, column))) for row in rows)  # type: ignore[attr-defined]
    for (currency,), amount in sorted(found.items()):
        family.add_metric([currency], amount)
    return family


def _counter(  # noqa: PLR0917
    name: str,
    what: str,
    labels: list[str],
    totals: Iterable[Total],
    key: Callable[[Total], tuple[str, ...]],
    at_least: Iterable[tuple[str, ...]] = (),
) -> Metric:
    """`at_least`: label values that are there also with nothing counted, so that the first one is seen as an increase."""
    family = CounterMetricFamily(f"{PREFIX}_{name}", what, labels=labels)
    counts: dict[tuple[str, ...], int] = dict.fromkeys(at_least, 0)
    counts.update(_by(totals, key))
    for values, total in sorted(counts.items()):
        family.add_metric(values, total)
    return family


def _histogram(  # noqa: PLR0917
    name: str, what: str, labels: list[str], totals: Iterable[Total], key: Callable[[Total], tuple[str, ...]], bounds: Sequence[float]
) -> Metric:
    """From cells, which are 5 % wide: that is how exact a bucket's bound is, and half of it the sum."""
    family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", what, labels=labels)
    cells: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for each in totals:
        cells[key(each)][each.cell] += each.total
    for values, counts in sorted(cells.items()):
        family.add_metric(values, *_buckets(counts, bounds))
    return family


def _buckets(counts: Mapping[int, int], bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts, and the sum of all in seconds."""
    middles = [(_middle(cell) / 1000, count) for cell, count in counts.items()]
    buckets = [
        ("+Inf" if math.isinf(bound) else str(float(bound)), float(sum(count for seconds, count in middles if seconds <= bound)))
        for bound in (*bounds, math.inf)
    ]
    return buckets, sum(seconds * count for seconds, count in middles)


def _by(totals: Iterable[Total], key: Callable[[Total], tuple[str, ...]]) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for each in totals:
        found[key(each)] += each.total
    return found


def _sums(pairs: Iterable[tuple[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for key, value in pairs:
        found[key] += value
    return found


def _result(total: Total) -> str:
    return "refused" if total.result != "done" and total.code in REFUSALS else total.result


def _code(total: Total) -> str:
    return "" if total.result == "done" else _known(total.code)


def _known(code: str | None) -> str:
    return (code if code in _CODES else OTHER) if code else "unknown"


def _currency(code: str | None) -> str:
    return code if code and is_currency(code) else OTHER
