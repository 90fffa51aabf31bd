"""Intake: stores orders durably, so that each reaches an outcome. Needs only the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, text

from saga.connections import answered_within
from saga.database import TRANSACTION_SECONDS, Tx, sync_engine, transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING, notification
from shop.orders import lost_steps
from shop.orders.errors import OrderConflict, UnusableOrder
from shop.orders.intake_content import Content, take_in
from shop.orders.outcomes import Outcome, Receipt
from shop.orders.store import ORDERS
from shop.orders.tries import IS_CANCELLED, how_to_retry
from shop.settings import settings

# Numbered in the submitted sequence but inserted by id, so that two senders of the same orders cannot
# deadlock. Returns the ids of the new orders; NULL if all of them are new, the usual case, because hundreds
# of rows take longer to read than to insert.
_INSERT = text(
    "WITH sent AS MATERIALIZED ("
    "SELECT nextval(pg_get_serial_sequence('customer_order', 'number')) AS number, id, content, fingerprint "
    "FROM unnest(CAST(:ids AS text[]), CAST(:contents AS text[]), CAST(:fingerprints AS text[])) "
    "AS s(id, content, fingerprint)), "
    "new AS ("
    "INSERT INTO customer_order (id, number, content, fingerprint, not_before) OVERRIDING SYSTEM VALUE "
    "SELECT id, number, CAST(content AS jsonb), fingerprint, "
    "now() + make_interval(secs => CAST(:kept_for AS float)) "
    "FROM sent ORDER BY id ON CONFLICT (id) DO NOTHING RETURNING id) "
    "SELECT CASE WHEN count(*) < cardinality(CAST(:ids AS text[])) "
    "THEN coalesce(array_agg(id), '{}') END AS ids, "
    "EXISTS (SELECT 1 FROM lost_step WHERE order_id = ANY(CAST(:ids AS text[]))) AS lost FROM new"
)
# Orders stored by older versions are compared by content as well.
_KNOWN = text(
    f"SELECT id, fingerprint, outcome, reasons, {IS_CANCELLED} AS cancelled, "  # noqa: S608  (a constant)
    "CASE WHEN NOT fingerprint = ANY(CAST(:fingerprints AS text[])) THEN content END AS content "
    "FROM customer_order o WHERE id = ANY(CAST(:ids AS text[]))"
)
_IDS = text("SELECT id FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))")
STORING = failpoint("the commit of intake")
_BATCH_SIZE = 500
"""Limits the orders in one transaction, so that a slow database stores them within the time limit."""


def submit(orders: Iterable[object], *, kept_for: float | None = None) -> list[Receipt]:
    """Stores the orders durably. Returns one receipt for each, in their sequence.

    A large number is stored in several transactions, each with its own time limit. If one fails, the orders
    of the previous ones are stored and reach their outcomes; submitting all of them again is safe.

    `kept_for`: seconds during which a new order can only be claimed by its id. Consumers are not woken then.
    """
    contents = [read(order) for order in orders]
    return [
        receipt
        for begin in range(0, len(contents), _BATCH_SIZE)
        for receipt in _submit(contents[begin : begin + _BATCH_SIZE], kept_for)
    ]


def _submit(contents: Sequence[Content | UnusableOrder], kept_for: float | None) -> list[Receipt]:
    with (
        answered_within(TRANSACTION_SECONDS),
        sync_engine(settings().database_url).connect() as connection,
        connection.begin() as running,
    ):
        receipts = _store(connection, contents, wake=kept_for is None, kept_for=kept_for)
        with STORING:
            running.commit()
    return receipts


async def known_ids(ids: Sequence[str]) -> set[str]:
    """Returns those of the ids under which an order is stored."""
    async with transaction() as tx:
        return {row.id for row in await tx.execute(_IDS, {"ids": list(ids)})}


async def submit_one(order: object) -> Receipt:
    """Runs `submit` for one order from an event loop."""
    content = read(order)
    async with transaction(STORING) as tx:
        return await store_one(tx, content)


async def store_one(tx: Tx, order: object, *, wake: bool = True) -> Receipt:
    """Stores one order in the caller's transaction, which commits at `STORING`. `order` is the result of
    `read`, so that the transaction does not wait for that. `wake`: notify consumers."""
    return (await tx.run_sync(_store, [read(order)], wake))[0]


def read(order: object) -> Content | UnusableOrder:
    """Returns what is to be stored, or why nothing can be. Uses no database: call it before the
    transaction."""
    if isinstance(order, Content | UnusableOrder):
        return order
    try:
        return take_in(order)
    except UnusableOrder as error:
        return error


def _store(
    connection: Connection,
    read: Sequence[Content | UnusableOrder],
    wake: bool = True,
    kept_for: float | None = None,
) -> list[Receipt]:
    first: dict[str, Content] = {}
    for content in read:
        if isinstance(content, Content):
            first.setdefault(content.order_id, content)
    new: set[str] = set()
    known: dict[str, Any] = {}
    if first:
        sent = {
            "ids": list(first),
            "contents": [content.text for content in first.values()],
            "fingerprints": [content.fingerprint for content in first.values()],
            "kept_for": kept_for,
        }
        inserted, has_lost_steps = connection.execute(_INSERT, sent).one()
        new = set(first if inserted is None else inserted)
        if has_lost_steps:
            lost_steps.add_to_journals(connection, new)
        if len(new) < len(first):
            asked = {"ids": [i for i in first if i not in new], "fingerprints": sent["fingerprints"]}
            known = {row.id: row for row in connection.execute(_KNOWN, asked)}
        if new and wake:
            connection.execute(notification(ORDERS, WAITING))
    return [_receipt(content, first, new, known) for content in read]


def _receipt(
    content: Content | UnusableOrder, first: dict[str, Content], new: set[str], known: dict[str, Any]
) -> Receipt:
    if isinstance(content, UnusableOrder):
        return Receipt(order_id=None, status="refused", reasons=content.reasons())
    order_id = content.order_id
    stored = known.get(order_id)
    same = (
        content.is_same_as(stored.fingerprint, stored.content)
        if stored
        else content.fingerprint == first[order_id].fingerprint
    )
    if not same:
        return Receipt(order_id=order_id, status="refused", reasons=OrderConflict(order_id).reasons())
    ignored = list(content.ignored)
    if order_id in new and content is first[order_id]:
        return Receipt(order_id=order_id, status="accepted", ignored=ignored)
    if stored is None or stored.outcome is None:
        return Receipt(order_id=order_id, status="known", ignored=ignored)
    return Receipt(
        order_id=order_id,
        status="known",
        outcome=Outcome(stored.outcome),
        reasons=stored.reasons,
        ignored=ignored,
        how_to_retry=how_to_retry(order_id, stored.outcome, cancelled=stored.cancelled),
    )
