"""Ledger check (guarantee 3): compares our tables with their independent sources.

The sources are the gateway's own payments for money, and the single shipments and reservations for stock.
Stock at an inventory service is requested from that service, also if the settings name another service by
now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import Connection, RowMapping, text

from saga.database import new_engine
from shop.inventory.ledger import MOVED
from shop.inventory.service.books import ServiceBook, service_books
from shop.payments.gateway import GatewayTotals, PaymentGateway
from shop.payments.settled import UNCOLLECTED
from shop.review.resolution import Resolution
from shop.settings import Settings
from shop.values.money import show

_MONEY = text(
    """
    SELECT o.currency,
        coalesce(sum(amount_charged), 0) AS charged, coalesce(sum(amount_refunded), 0) AS refunded,
        coalesce(
            sum(CAST(content ->> 'total_amount' AS numeric)) FILTER (WHERE outcome = 'completed'), 0
        ) AS completed,
        coalesce(sum(o.amount_elsewhere), 0) AS elsewhere,
        coalesce(sum(o.amount_at_risk) FILTER (WHERE outcome = 'needs_attention'), 0) AS at_risk,
        coalesce(sum(a.amount_by_hand), 0) AS by_hand, coalesce(sum(a.amount_written_off), 0) AS written_off
    FROM customer_order o LEFT JOIN attention a ON a.order_id = o.id
    WHERE outcome IN ('completed', 'compensated', 'needs_attention')
        OR outcome IS NOT NULL AND (amount_charged > 0 OR amount_elsewhere > 0)
    GROUP BY o.currency ORDER BY o.currency
    """
)
# The decisions about money that did not go through the gateway, as they were recorded one by one.
_DECIDED = text(
    "SELECT action, count(*) AS decisions, sum(e.amount) AS amount FROM desk_entry e "
    "JOIN customer_order o ON o.id = e.order_id "
    "WHERE o.outcome IS NOT NULL AND e.currency = :currency AND e.amount > 0 GROUP BY action"
)
# What was due by transfer or on delivery. `jsonb_path_query` also takes an order of before whose
# `part_payments` is null.
_DUE = """o.amount_elsewhere - coalesce((
    SELECT sum(CAST(paid #>> '{}' AS numeric))
    FROM jsonb_path_query(o.content, '$.part_payments[*].amount') paid), 0)"""
# Orders that were shipped before they were paid. What is received beyond an order's amount is not its money.
_COLLECTED = text(
    f"""
    SELECT coalesce(sum(due), 0) AS due, coalesce(sum(least(due, received)), 0) AS received FROM (
        SELECT {_DUE} AS due,
            coalesce((SELECT sum(r.amount) FROM received_payment r
                WHERE r.order_id = o.id AND r.currency = o.currency), 0) AS received
        FROM customer_order o JOIN order_step s ON s.order_id = o.id AND s.step = 'process_payment'
        WHERE o.outcome = 'completed' AND o.amount_elsewhere > 0 AND o.currency = :currency
          AND s.result ->> 'payment_status' = 'collect'
    ) each
    """  # noqa: S608  (a constant)
)
# Money that came by transfer or on delivery for orders that did not complete: a person gives it back.
_IN_VAIN = text(
    f"""
    SELECT o.currency, sum(r.amount) AS received,
        sum(least(r.amount, o.amount_elsewhere - {UNCOLLECTED})) AS known
    FROM customer_order o JOIN (
        SELECT order_id, currency, sum(amount) AS amount FROM received_payment GROUP BY order_id, currency
    ) r ON r.order_id = o.id AND r.currency = o.currency
    LEFT JOIN order_step s ON s.order_id = o.id AND s.step = 'process_payment'
    WHERE o.outcome <> 'completed' GROUP BY o.currency ORDER BY o.currency
    """  # noqa: S608  (a constant)
)
# Money that came by transfer or on delivery beyond what was due. It is not the order's.
_OVERPAID = text(
    f"""
    SELECT currency, sum(received - due) AS amount, count(*) AS orders FROM (
        SELECT o.currency, r.amount AS received, {_DUE} AS due
        FROM customer_order o JOIN (
            SELECT order_id, currency, sum(amount) AS amount FROM received_payment GROUP BY order_id, currency
        ) r ON r.order_id = o.id AND r.currency = o.currency
        WHERE o.outcome = 'completed'
    ) each WHERE received > due GROUP BY currency ORDER BY currency
    """  # noqa: S608  (a constant)
)
_OPEN = text("SELECT count(*) FROM customer_order WHERE outcome IS NULL")
_STOCK = text(
    f"""
    SELECT coalesce(sum(received), 0)::bigint AS received, coalesce(sum(on_hand), 0)::bigint AS on_hand,
        coalesce(sum(reserved), 0)::bigint AS reserved, coalesce(sum(shipped), 0)::bigint AS shipped,
        coalesce(sum(held), 0)::bigint AS held, coalesce(sum(delivered), 0)::bigint AS delivered,
        count(*) FILTER (WHERE on_hand + shipped <> received) AS wrong_on_hand,
        count(*) FILTER (WHERE reserved <> held) AS wrong_reserved,
        count(*) FILTER (WHERE received <> delivered) AS wrong_received
    FROM ({MOVED}) moved
    """  # noqa: S608
)
_EVER_RESERVED = text("SELECT EXISTS (SELECT 1 FROM reservation)")
_HELD_BY_ENDED = text(
    "SELECT count(*) FROM reservation r JOIN customer_order o ON o.id = r.order_id "
    "WHERE r.state = 'held' AND o.outcome IS NOT NULL AND o.outcome <> 'needs_attention'"
)


@dataclass(frozen=True, slots=True)
class BookRow:
    """One line: our figure, the source's figure, and whether they agree."""

    name: str
    ours: str
    source: str
    ok: bool | None
    """None: they were not compared."""


_NOT_COMPARED = "not compared: the gateway was not asked"
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_NOTHING = GatewayTotals(Decimal(0), Decimal(0))
Totals = Mapping[str, GatewayTotals]
"""Per currency: what the gateway has charged and refunded."""


@dataclass(frozen=True, slots=True)
class Books:
    rows: list[BookRow]
    compared: bool
    """Whether the gateway was asked. If not, the rows do not check the money."""

    @property
    def balanced(self) -> bool:
        return all(row.ok is not False for row in self.rows)


async def gateway_totals(gateway: PaymentGateway, progress: Callable[[int], None] = lambda _: None) -> Totals:
    """Returns the sums of all payments at the gateway, read page by page. Calls `progress` with the number
    of payments read so far. Raises the gateway's errors."""
    charged, refunded, read = defaultdict[str, Decimal](Decimal), defaultdict[str, Decimal](Decimal), 0
    async for page in gateway.pages(_EVER):
        for payment in page:
            charged[payment.currency] += payment.charged
            refunded[payment.currency] += payment.amount_refunded
        progress(read := read + len(page))
    return {c: GatewayTotals(charged[c], refunded[c]) for c in charged if charged[c]}


def read_books(database_url: str, source: Totals | None) -> Books:
    """Reads and compares the books. `source` is the gateway's totals; None skips the comparison with the
    gateway.

    The books balance at rest: while orders are in progress, their money and stock may be in transit.
    """
    url = Settings(DATABASE_URL=database_url).database_url
    engine = new_engine(url)
    try:
        with engine.connect() as connection:
            services = service_books(connection)
            rows = _money(connection, source) + _in_vain(connection) + _overpaid(connection)
            rows += _stock(connection, alone=not services)
            rows += [row for book in services for row in _at_service(book)]
    finally:
        engine.dispose()
    return Books(rows, compared=source is not None)


def _money(connection: Connection, source: Totals | None) -> list[BookRow]:
    rows, known = [], list(connection.execute(_MONEY).mappings())
    if source is None:
        rows.append(BookRow("charged, refunded", "", _NOT_COMPARED, ok=None))
    else:
        for currency in sorted(source.keys() - {row["currency"] for row in known}):
            rows.append(
                _amounts("charged", Decimal(0), source[currency].charged, currency, "gateway's ledger")
            )
    for row in known:
        currency = row["currency"]
        charged, refunded = row["charged"], row["refunded"]
        if source is not None:
            totals = source.get(currency, _NOTHING)
            charged, refunded = totals.charged, totals.refunded
            rows.append(_amounts("charged", row["charged"], charged, currency, "gateway's ledger"))
            rows.append(_amounts("refunded", row["refunded"], refunded, currency, "gateway's ledger"))
        review = list(_settled_by_people(connection, row))
        rows += review
        kept = charged - refunded
        explained = row["completed"] + row["at_risk"] + row["by_hand"] + row["written_off"]
        name = "completed orders + at risk" + "".join(f" + {line.name}" for line in review)
        who = "charged - refunded"
        if row["elsewhere"]:
            rows.append(_elsewhere(connection, row["elsewhere"], currency))
            kept, who = kept + row["elsewhere"], f"{who} + paid elsewhere"
        rows.append(_amounts(name, explained, kept, currency, who))
    return rows


def _in_vain(connection: Connection) -> list[BookRow]:
    """Returns the lines about money that came for orders that did not complete."""
    return [
        _amounts("received for uncompleted orders", row.known, row.received, row.currency, "as recorded")
        for row in connection.execute(_IN_VAIN)
    ]


def _overpaid(connection: Connection) -> list[BookRow]:
    """Returns the lines about money that customers get back although their orders completed."""
    return [
        BookRow(
            "received beyond what was due",
            show(row.amount, row.currency),
            f"to give back, of {row.orders:,} order{'s' if row.orders != 1 else ''}",
            ok=None,
        )
        for row in connection.execute(_OVERPAID)
    ]


def _elsewhere(connection: Connection, amount: Decimal, currency: str) -> BookRow:
    """Returns the line about money that others took: it never went through the gateway."""
    row = connection.execute(_COLLECTED, {"currency": currency}).one()
    outstanding = show(row.due - row.received, currency)
    return BookRow("paid elsewhere", show(amount, currency), f"{outstanding} of it to be collected", ok=None)


def _settled_by_people(connection: Connection, row: RowMapping) -> Iterator[BookRow]:
    """Yields one line each for refunds outside the gateway and for written-off amounts, if there are any."""
    currency: str = row["currency"]
    decided = {
        each["action"]: each for each in connection.execute(_DECIDED, {"currency": currency}).mappings()
    }
    names = {
        "by_hand": (Resolution.REFUNDED_BY_HAND, "refunded by hand"),
        "written_off": (Resolution.WRITTEN_OFF, "written off"),
    }
    for column, (action, name) in names.items():
        each = decided.get(action)
        amount, decisions = (each["amount"], each["decisions"]) if each else (Decimal(0), 0)
        if row[column] or amount:
            who = f"{decisions} decision{'s' if decisions != 1 else ''}, by name"
            yield _amounts(name, row[column], amount, currency, who)


def _amounts(name: str, ours: Decimal, source: Decimal, currency: str, who: str) -> BookRow:
    return BookRow(name, show(ours, currency), f"{show(source, currency)} ({who})", ours == source)


def _stock(connection: Connection, *, alone: bool) -> list[BookRow]:
    """Compares the stock in our own tables. If there is a service too (`alone` is false): only if this
    stock ever moved."""
    if not alone and not connection.execute(_EVER_RESERVED).scalar():
        return []
    stock = connection.execute(_STOCK).one()
    open_orders = connection.execute(_OPEN).scalar_one()
    leaked = connection.execute(_HELD_BY_ENDED).scalar_one()
    return [
        _pieces(
            "received",
            stock.received,
            f"{stock.delivered:,} pieces in recorded deliveries",
            not stock.wrong_received,
        ),
        _pieces(
            "on hand + shipped",
            f"{stock.on_hand:,} + {stock.shipped:,}",
            f"{stock.received:,} pieces received",
            not stock.wrong_on_hand,
        ),
        _pieces(
            "reserved",
            stock.reserved,
            f"{stock.held:,} pieces held by {open_orders:,} open orders",
            not stock.wrong_reserved and not leaked,
        ),
    ]


def _pieces(name: str, ours: int | str, source: str, ok: bool) -> BookRow:
    amount = f"{ours:,}" if isinstance(ours, int) else ours
    return BookRow(f"stock {name}", f"{amount} pieces", source, ok)


def _at_service(book: ServiceBook) -> list[BookRow]:
    """Compares the stock at an inventory service, which is the source for what has left its shelf and what
    is reserved there."""
    who = f"inventory service at {book.url}"
    if book.problem is not None:
        return [
            BookRow(
                "stock on hand + shipped",
                f"{book.shipped_by_us.total():,} shipped",
                f"{book.problem} ({who})",
                ok=False,
            )
        ]
    on_hand, received = sum(p.on_hand for p in book.stock), sum(p.received for p in book.stock)
    held, others = sum(p.held for p in book.stock), book.shipped_for_others()
    delivered = [p.delivered for p in book.stock if p.delivered is not None]
    in_deliveries = f"{sum(delivered):,} pieces in recorded deliveries ({who})"
    recorded = _pieces("received", received, in_deliveries, all(p.was_delivered for p in book.stock))
    return [
        *([recorded] if delivered else []),
        _pieces(
            "on hand + shipped",
            f"{on_hand:,} + {book.shipped_by_us.total():,}{f' + {others:,}' if others else ''}",
            f"{received:,} pieces received ({who})",
            not book.wrong_shipped() and all(p.on_hand + p.shipped == p.received for p in book.stock),
        ),
        _pieces(
            "reserved",
            sum(p.reserved for p in book.stock),
            f"{held:,} pieces held by {len(book.holdings):,} orders ({who})",
            all(p.reserved == p.held for p in book.stock) and not book.held_by_ended,
        ),
    ]
