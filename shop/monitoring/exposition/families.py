"""The series: a reading as metric families of Prometheus.
`docs/reference/metrics.md` lists names and labels; a test compares.

Labels have few values, whatever orders contain: steps, outcomes, codes of our own errors, ISO currencies. No
ids, no customer data.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from saga.database import pool_use
from shop.monitoring.buckets import middle_ms
from shop.monitoring.error_codes import EXTERNAL, POSTPONED, REFUSALS, SHOP_CODES
from shop.monitoring.exposition.reading import Now, Read, Total
from shop.notifications.stored import CONFIRMATION_STEP
from shop.orders.outcomes import Outcome
from shop.payments.errors import PaymentAwaited, PaymentNeedsCustomer
from shop.values.money import is_currency

PREFIX = "order_saga"
STEP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
ORDER_BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21_600, 86_400)
OTHER = "other"
_MOST_WRITERS = 20
_REASONS = (*EXTERNAL, PaymentNeedsCustomer.code, PaymentAwaited.code)
"""The reasons for postponing orders: reported even if there are no such orders."""
_OPEN_STATES = ("waiting", "held", "postponed", "left_behind")
_OUTBOX_STATES = ("waiting", "failing", "refused")


def shop_families(read: Read) -> Iterator[Metric]:
    """Yields the series of a shop's orders."""
    yield from _totals(read.totals)
    yield from _orders_now(read.now)
    yield from _money_now(read.now)
    yield from _others_now(read.now)


def inventory_families(read: Read) -> Iterator[Metric]:
    """Yields the series of a stock."""
    found = read.now.inventory
    yield _gauge("inventory_products", "Products in the catalogue.", found.products)
    yield _gauge("inventory_products_sold_out", "Products with nothing left to reserve.", found.sold_out)
    pieces = GaugeMetricFamily(
        f"{PREFIX}_inventory_pieces", "Pieces on hand, and the reserved ones among them.", labels=["state"]
    )
    pieces.add_metric(["on_hand"], float(found.on_hand))
    pieces.add_metric(["reserved"], float(found.reserved))
    yield pieces


def reading_families(read: Read | None) -> Iterator[Metric]:
    """Yields the series of the reading itself."""
    yield _gauge(
        "database_up",
        "1 if the database answered the latest reading; "
        "otherwise the series that are read from it are missing.",
        read,
    )
    if read is not None:
        yield _gauge(
            "database_read_seconds", "Duration of the latest reading from the database.", read.seconds
        )


def process_families(kind: str) -> Iterator[Metric]:
    """Yields the series of the process that answers."""
    info = GaugeMetricFamily(
        f"{PREFIX}_process_info", "1, for the kind of process that answers.", labels=["kind"]
    )
    info.add_metric([kind], 1)
    yield info
    use = pool_use()
    connections = GaugeMetricFamily(
        f"{PREFIX}_pool_connections",
        "Open database connections of the process that answers.",
        labels=["state"],
    )
    connections.add_metric(["in_use"], use.in_use)
    connections.add_metric(["idle"], use.open - use.in_use)
    yield connections
    yield _gauge("pool_connections_limit", "Maximum number of its database connections.", use.most)


def _totals(totals: Sequence[Total]) -> Iterator[Metric]:
    of: dict[str, list[Total]] = defaultdict(list)
    for each in totals:
        of[each.kind].append(each)
    yield _counter(
        "orders",
        "Orders that ended, by outcome.",
        ["outcome"],
        of["order"],
        lambda t: (t.result,),
        [(str(o),) for o in Outcome],
    )
    timed = [t for t in of["order"] if t.result != Outcome.NEEDS_ATTENTION]
    yield _histogram(
        "order_duration",
        "From submission to outcome.",
        ["outcome"],
        timed,
        lambda t: (t.result,),
        ORDER_BOUNDS,
    )
    steps, undos = of["step"], of["undo"]
    ended, undone = ([t for t in each if t.result != POSTPONED] for each in (steps, undos))
    what = (
        "Steps that ended. refused: a business refusal, such as a declined card; failed: an error; "
        "postponed: a postponed attempt, repeated when an external system is available again."
    )
    yield _counter("steps", what, ["step", "result", "code"], steps, lambda t: (t.name, _result(t), _code(t)))
    what = "From the first start of a step to its end, including pauses between attempts."
    yield _histogram("step_duration", what, ["step"], ended, lambda t: (t.name,), STEP_BOUNDS)
    what = "Attempts after the first, of steps that are done or were given up."
    yield _counter(
        "step_retries",
        what,
        ["step"],
        of["step retry"],
        lambda t: (t.name,),
        sorted({(t.name,) for t in steps}),
    )
    what = (
        "Compensations that ended, by the step that they undo. failed: still due; postponed: postponed, "
        "repeated when the external system is available again."
    )
    yield _counter("compensations", what, ["step", "result"], undos, lambda t: (t.name, t.result))
    yield _histogram(
        "compensation_duration",
        "From the first attempt to the end.",
        ["step"],
        undone,
        lambda t: (t.name,),
        STEP_BOUNDS,
    )
    what = "Attempts after the first, of compensations that are done."
    yield _counter(
        "compensation_retries",
        what,
        ["step"],
        of["undo retry"],
        lambda t: (t.name,),
        sorted({(t.name,) for t in undos}),
    )
    written = [t for t in steps if t.name == CONFIRMATION_STEP and t.result == "done"]
    most = {writer for (writer,), _ in _by(written, lambda t: (t.code,)).most_common(_MOST_WRITERS)}
    what = "Confirmations by writer: template, or the name of the language model."
    yield _counter(
        "confirmations",
        what,
        ["writer"],
        written,
        lambda t: ((t.code or "unknown") if t.code in most else OTHER,),
    )
    sent = of["message"]
    yield _counter(
        "messages_sent",
        "Mails and messages to the CRM that were sent, by kind.",
        ["kind"],
        sent,
        lambda t: (t.name,),
    )
    what = "From the time when a message was due to the time when it was sent."
    yield _histogram("message_delay", what, ["kind"], sent, lambda t: (t.name,), ORDER_BOUNDS)
    what = "Attempts after the first, of messages that were sent."
    yield _counter(
        "message_retries",
        what,
        ["kind"],
        of["message retry"],
        lambda t: (t.name,),
        sorted({(t.name,) for t in sent}),
    )


def _orders_now(now: Now) -> Iterator[Metric]:
    rows = {row.state: row for row in now.open}
    what = (
        "Orders without an outcome. waiting: held by no worker; held: a worker processes it; "
        "postponed: postponed, for an external system or the customer; "
        "left_behind: its worker died, and no other has taken it over yet."
    )
    states = GaugeMetricFamily(f"{PREFIX}_open_orders", what, labels=["state"])
    for state in _OPEN_STATES:
        states.add_metric([state], rows[state].orders if state in rows else 0)
    yield states
    yield _gauge(
        "orders_being_undone",
        "Orders without an outcome that are being compensated.",
        sum(row.undoing for row in now.open),
    )
    what = (
        "Age of the oldest order without an outcome, without those under manual review; 0 if there is none."
    )
    yield _gauge("oldest_open_order_age_seconds", what, max((row.age or 0 for row in now.open), default=0))
    what = "Time since the lease of the order that waits longest for recovery expired; 0 if there is none."
    yield _gauge("left_behind_age_seconds", what, max((row.since_over or 0 for row in now.open), default=0))
    why = GaugeMetricFamily(
        f"{PREFIX}_postponed_orders", "Postponed orders, by the code of the reason.", labels=["code"]
    )
    waiting = Counter(dict.fromkeys(_REASONS, 0))
    for row in now.postponed:
        waiting[_known(row.code)] += row.orders
    for code, orders in sorted(waiting.items()):
        why.add_metric([code], orders)
    yield why


def _money_now(now: Now) -> Iterator[Metric]:
    review = GaugeMetricFamily(
        f"{PREFIX}_needs_attention_orders",
        "Orders under manual review, by the step whose compensation failed.",
        labels=["step"],
    )
    for (step,), orders in sorted(_sums(((row.step,), row.orders) for row in now.review).items()):
        review.add_metric([step], orders)
    yield review
    yield _gauge(
        "desk_orders",
        "Orders under manual review: a compensation failed, and a person must act.",
        sum(r.orders for r in now.review),
    )
    yield _gauge("disputes_open", "Charges disputed by customers' banks.", now.others.disputes)
    yield _amounts(
        "at_risk_amount",
        "Charged and neither earned nor refunded: of orders under manual review.",
        now.review,
        "at_risk",
    )
    yield _gauge(
        "refunds_owed_orders", "Orders whose money is to be refunded.", sum(row.orders for row in now.refunds)
    )
    what = "Money that is to be refunded: the amount at risk, and refunds in progress."
    yield _amounts("refunds_owed_amount", what, now.refunds, "amount")


def _others_now(now: Now) -> Iterator[Metric]:
    rows = {row.state: row for row in now.outbox}
    what = (
        "Messages that are not sent. failing: an attempt failed and will be repeated; "
        "refused: the recipient rejects it."
    )
    outbox = GaugeMetricFamily(f"{PREFIX}_outbox_messages", what, labels=["state"])
    for state in _OUTBOX_STATES:
        outbox.add_metric([state], rows[state].messages if state in rows else 0)
    yield outbox
    what = "Age of the oldest message that is still to be sent; 0 if there is none."
    yield _gauge("outbox_oldest_age_seconds", what, max((row.age or 0 for row in now.outbox), default=0))
    yield _gauge(
        "payment_events_waiting", "Events of the gateway that are not handled yet.", now.others.payment_events
    )
    yield _gauge("leases", "Valid leases: runs that may process orders now.", now.others.leases)
    what = "Long-running processes. lost: no heartbeat for three intervals, in the last hour."
    processes = GaugeMetricFamily(f"{PREFIX}_processes", what, labels=["kind", "state"])
    for (kind, state), number in sorted(
        {
            ("worker", "alive"): 0,
            ("consumer", "alive"): 0,
            **{(row.kind, row.state): row.processes for row in now.processes},
        }.items()
    ):
        processes.add_metric([kind, state], number)
    yield processes
    alive = [row for row in now.processes if row.state == "alive"]
    yield _by_kind("processes_cpu_cores", "CPU cores used in total, from the latest samples.", alive, "cpu")
    yield _by_kind("processes_memory_bytes", "Memory used in total.", alive, "memory")
    yield _by_kind("processes_database_connections", "Database connections in use in total.", alive, "in_use")
    yield _by_kind(
        "processes_database_connections_limit",
        "Maximum number of database connections in total.",
        alive,
        "most",
    )


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
    """Amounts in the currency's main unit, dollars and not cents. Unknown currencies share one label."""
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
    """Makes a counter. `at_least`: label values that are reported even if nothing was counted, so that the
    first count is an increase."""
    family = CounterMetricFamily(f"{PREFIX}_{name}", what, labels=labels)
    counts: dict[tuple[str, ...], int] = dict.fromkeys(at_least, 0)
    counts.update(_by(totals, key))
    for values, total in sorted(counts.items()):
        family.add_metric(values, total)
    return family


def _histogram(  # noqa: PLR0917
    name: str,
    what: str,
    labels: list[str],
    totals: Iterable[Total],
    key: Callable[[Total], tuple[str, ...]],
    bounds: Sequence[float],
) -> Metric:
    """Makes a histogram from our buckets, which are 5 % wide: the error of its bounds, and twice the error of
    its sum."""
    family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", what, labels=labels)
    by_labels: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for each in totals:
        by_labels[key(each)][each.bucket] += each.total
    for values, counts in sorted(by_labels.items()):
        family.add_metric(values, *_buckets(counts, bounds))
    return family


def _buckets(counts: Mapping[int, int], bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Returns cumulative counts and the sum of all in seconds."""
    middles = [(middle_ms(bucket) / 1000, count) for bucket, count in counts.items()]
    buckets = [
        (
            "+Inf" if math.isinf(bound) else str(float(bound)),
            float(sum(count for seconds, count in middles if seconds <= bound)),
        )
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
    return (code if code in SHOP_CODES else OTHER) if code else "unknown"


def _currency(code: str | None) -> str:
    return code if code and is_currency(code) else OTHER
