"""The series: a reading as metric families of Prometheus.
`docs/reference/metrics.md` lists names and labels; a test compares.

Labels have few values, whatever orders contain: steps, outcomes, codes of our own errors, ISO currencies. No
ids, no customer data.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from saga.database import pool_use
from shop.monitoring.buckets import middle_ms
from shop.monitoring.error_codes import CUSTOMER, EXTERNAL, POSTPONED, REFUSALS, SHOP_CODES
from shop.monitoring.exposition.reading import Now, Read, Total
from shop.notifications.outbox import SHOWN_DAYS
from shop.notifications.stored import CONFIRMATION_STEP
from shop.orders.outcomes import Outcome
from shop.values.money import is_currency

PREFIX = "order_saga"
STEP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
ORDER_BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21_600, 86_400)
OTHER = "other"
_MOST_WRITERS = 20
_REASONS = (*EXTERNAL, *CUSTOMER)
"""The reasons for postponing orders: reported even if there are no such orders."""
_OPEN_STATES = ("waiting", "held", "postponed", "left_behind")
_OUTBOX_STATES = ("waiting", "failing", "refused")
_HELP = {
    "process_info": "1, for the kind of process that answers.",
    "pool_connections": "Open database connections of the process that answers.",
    "pool_connections_limit": "Maximum number of its database connections.",
    "database_up": (
        "1 if the database answered the latest reading; "
        "otherwise the series that are read from it are missing."
    ),
    "database_read_seconds": "Duration of the latest reading from the database.",
    "orders": "Orders that ended, by outcome.",
    "order_duration_seconds": "From submission to outcome.",
    "steps": (
        "Steps that ended. refused: a business refusal, such as a declined card; failed: an error; "
        "postponed: a postponed attempt, repeated when an external system is available again."
    ),
    "step_duration_seconds": "From the first start of a step to its end, including pauses between attempts.",
    "step_retries": "Attempts after the first, of steps that are done or were given up.",
    "compensations": (
        "Compensations that ended, by the step that they undo. failed: still due; postponed: postponed, "
        "repeated when the external system is available again."
    ),
    "compensation_duration_seconds": "From the first attempt to the end.",
    "compensation_retries": "Attempts after the first, of compensations that are done.",
    "confirmations": "Confirmations by writer: template, or the name of the language model.",
    "messages_sent": "Mails and messages to the CRM that were sent, by kind.",
    "message_delay_seconds": "From the time when a message was due to the time when it was sent.",
    "message_retries": "Attempts after the first, of messages that were sent.",
    "open_orders": (
        "Orders without an outcome. waiting: held by no worker; held: a worker processes it; "
        "postponed: postponed, for an external system or the customer; "
        "left_behind: its worker died, and no other has taken it over yet."
    ),
    "orders_being_undone": "Orders without an outcome that are being compensated.",
    "oldest_open_order_age_seconds": (
        "Age of the oldest order without an outcome, without those under manual review and those that wait "
        "for their customer's money; 0 if there is none."
    ),
    "left_behind_age_seconds": (
        "Time since the lease of the order that waits longest for recovery expired; 0 if there is none."
    ),
    "postponed_orders": "Postponed orders, by the code of the reason.",
    "needs_attention_orders": "Orders under manual review, by the step whose compensation failed.",
    "manual_review_orders": "Orders under manual review: a compensation failed, and a person must act.",
    "disputes_open": "Charges disputed by customers' banks.",
    "at_risk_amount": "Charged and neither earned nor refunded: of orders under manual review.",
    "refunds_owed_orders": "Orders whose money is to be refunded.",
    "refunds_owed_amount": "Money that is to be refunded: the amount at risk, and refunds in progress.",
    "outbox_messages": (
        "Messages that are not sent. failing: an attempt failed and will be repeated; "
        f"refused: the recipient rejects it, in the last {SHOWN_DAYS} days."
    ),
    "outbox_oldest_age_seconds": "Age of the oldest message that is still to be sent; 0 if there is none.",
    "payment_events_waiting": "Events of the gateway that are not handled yet.",
    "leases": "Valid leases: runs that may process orders now.",
    "processes": "Long-running processes. lost: no heartbeat for three intervals, in the last hour.",
    "processes_cpu_cores": "CPU cores used in total, from the latest samples.",
    "processes_memory_bytes": "Memory used in total.",
    "processes_database_connections": "Database connections in use in total.",
    "processes_database_connections_limit": "Maximum number of database connections in total.",
    "inventory_products": "Products in the catalogue.",
    "inventory_products_sold_out": "Products with nothing left to reserve.",
    "inventory_pieces": "Pieces on hand, and the reserved ones among them.",
}
"""What each series is, by its name without `PREFIX`."""
_Labels = tuple[str, ...]
_Key = Callable[[Total], _Labels]


def shop_families(read: Read) -> Iterator[Metric]:
    yield from _totals(read.totals)
    yield from _orders_now(read.now)
    yield from _money_now(read.now)
    yield from _others_now(read.now)


def inventory_families(read: Read) -> Iterator[Metric]:
    found = read.now.inventory
    yield _gauge("inventory_products", found.products)
    yield _gauge("inventory_products_sold_out", found.sold_out)
    yield _gauges("inventory_pieces", "state", {"on_hand": found.on_hand, "reserved": found.reserved})


def reading_families(read: Read | None) -> Iterator[Metric]:
    """Yields the series of the reading itself."""
    yield _gauge("database_up", read is not None)
    if read is not None:
        yield _gauge("database_read_seconds", read.seconds)


def process_families(kind: str) -> Iterator[Metric]:
    use = pool_use()
    yield _gauges("process_info", "kind", {kind: 1})
    yield _gauges("pool_connections", "state", {"in_use": use.in_use, "idle": use.open - use.in_use})
    yield _gauge("pool_connections_limit", use.most)


def _totals(totals: Sequence[Total]) -> Iterator[Metric]:
    of: dict[str, list[Total]] = defaultdict(list)
    for each in totals:
        of[each.kind].append(each)
    orders, steps, undos, sent = of["order"], of["step"], of["undo"], of["message"]
    yield _counter("orders", ["outcome"], orders, lambda t: (t.result,), [(str(o),) for o in Outcome])
    timed = [t for t in orders if t.result != Outcome.NEEDS_ATTENTION]
    yield _histogram("order_duration_seconds", ["outcome"], timed, lambda t: (t.result,), ORDER_BOUNDS)
    yield _counter("steps", ["step", "result", "code"], steps, lambda t: (t.name, _result(t), _code(t)))
    yield _counter("compensations", ["step", "result"], undos, lambda t: (t.name, t.result))
    for kind, name, label in (
        ("step", "step", "step"),
        ("undo", "compensation", "step"),
        ("message", "message", "kind"),
    ):
        known = {_name(t) for t in of[kind]}
        yield _counter(f"{name}_retries", [label], of[f"{kind} retry"], _name, known)
        if kind != "message":
            ended = [t for t in of[kind] if t.result != POSTPONED]
            yield _histogram(f"{name}_duration_seconds", ["step"], ended, _name, STEP_BOUNDS)
    written = [t for t in steps if t.name == CONFIRMATION_STEP and t.result == "done"]
    most = {writer for (writer,), _ in _by(written, lambda t: (t.code,)).most_common(_MOST_WRITERS)}
    yield _counter(
        "confirmations", ["writer"], written, lambda t: ((t.code or "unknown") if t.code in most else OTHER,)
    )
    yield _counter("messages_sent", ["kind"], sent, _name)
    yield _histogram("message_delay_seconds", ["kind"], sent, _name, ORDER_BOUNDS)


def _orders_now(now: Now) -> Iterator[Metric]:
    states = {row.state: row.orders for row in now.open}
    yield _gauges("open_orders", "state", {state: states.get(state, 0) for state in _OPEN_STATES})
    yield _gauge("orders_being_undone", sum(row.undoing for row in now.open))
    yield _gauge("oldest_open_order_age_seconds", max((row.age or 0 for row in now.open), default=0))
    yield _gauge("left_behind_age_seconds", max((row.since_over or 0 for row in now.open), default=0))
    waiting = Counter(dict.fromkeys(_REASONS, 0))
    for row in now.postponed:
        waiting[_known(row.code)] += row.orders
    yield _gauges("postponed_orders", "code", waiting)


def _money_now(now: Now) -> Iterator[Metric]:
    yield _gauges("needs_attention_orders", "step", _sums((row.step, row.orders) for row in now.review))
    yield _gauge("manual_review_orders", sum(row.orders for row in now.review))
    yield _gauge("disputes_open", now.others.disputes)
    yield _amounts("at_risk_amount", ((row.currency, row.at_risk) for row in now.review))
    yield _gauge("refunds_owed_orders", sum(row.orders for row in now.refunds))
    yield _amounts("refunds_owed_amount", ((row.currency, row.amount) for row in now.refunds))


def _others_now(now: Now) -> Iterator[Metric]:
    states = {row.state: row.messages for row in now.outbox}
    yield _gauges("outbox_messages", "state", {state: states.get(state, 0) for state in _OUTBOX_STATES})
    yield _gauge("outbox_oldest_age_seconds", max((row.age or 0 for row in now.outbox), default=0))
    yield _gauge("payment_events_waiting", now.others.payment_events)
    yield _gauge("leases", now.others.leases)
    processes: dict[_Labels, float] = {("worker", "alive"): 0, ("consumer", "alive"): 0}
    processes |= {(row.kind, row.state): row.processes for row in now.processes}
    yield _filled(GaugeMetricFamily, "processes", ["kind", "state"], processes)
    for name, column in (
        ("processes_cpu_cores", "cpu"),
        ("processes_memory_bytes", "memory"),
        ("processes_database_connections", "in_use"),
        ("processes_database_connections_limit", "most"),
    ):
        alive = {row.kind: getattr(row, column) for row in now.processes if row.state == "alive"}
        yield _gauges(name, "kind", {kind: value for kind, value in alive.items() if value is not None})


def _gauge(name: str, value: Any) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", _HELP[name], value=float(value))


def _gauges(name: str, label: str, values: Mapping[str, Any]) -> Metric:
    """Makes a gauge with one label."""
    return _filled(GaugeMetricFamily, name, [label], {(key,): float(value) for key, value in values.items()})


def _amounts(name: str, amounts: Iterable[tuple[str | None, Any]]) -> Metric:
    """Makes a gauge of amounts in the currency's main unit, dollars and not cents. Unknown currencies share
    one label."""
    return _gauges(name, "currency", _sums((_currency(code), float(amount)) for code, amount in amounts))


def _counter(
    name: str, labels: list[str], totals: Iterable[Total], key: _Key, at_least: Iterable[_Labels] = ()
) -> Metric:
    """Makes a counter. `at_least`: label values that are reported even if nothing was counted, so that the
    first count is an increase."""
    counts = {**dict.fromkeys(at_least, 0), **_by(totals, key)}
    return _filled(CounterMetricFamily, name, labels, counts)


def _filled(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    labels: list[str],
    values: Mapping[_Labels, float],
) -> Metric:
    family = kind(f"{PREFIX}_{name}", _HELP[name], labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, labels: list[str], totals: Iterable[Total], key: _Key, bounds: Sequence[float]
) -> Metric:
    """Makes a histogram from our buckets, which are 5 % wide: the error of its bounds, and twice the error of
    its sum."""
    family = HistogramMetricFamily(f"{PREFIX}_{name}", _HELP[name], labels=labels)
    by_labels: dict[_Labels, Counter[int]] = defaultdict(Counter)
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


def _by(totals: Iterable[Total], key: _Key) -> Counter[_Labels]:
    found: Counter[_Labels] = Counter()
    for each in totals:
        found[key(each)] += each.total
    return found


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for key, value in pairs:
        found[key] += value
    return found


def _name(total: Total) -> _Labels:
    return (total.name,)


def _result(total: Total) -> str:
    return "refused" if total.result != "done" and total.code in REFUSALS else total.result


def _code(total: Total) -> str:
    return "" if total.result == "done" else _known(total.code)


def _known(code: str | None) -> str:
    return (code if code in SHOP_CODES else OTHER) if code else "unknown"


def _currency(code: str | None) -> str:
    return code if code and is_currency(code) else OTHER
