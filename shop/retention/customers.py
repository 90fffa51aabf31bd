"""Erases the customer data of old orders. Ids, amounts, steps, statuses, codes and times stay, and the
order's fingerprint, so that a resubmitted order is recognised and not charged. What stays is an allow list:
numbers, and texts under keys that name an id, a code or a time; data of steps that are added later is not
kept by mistake.

Files are deleted before the database records the erasure: after an interruption anywhere, the order is erased
again, which changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from saga import manual
from saga.database import sync_engine
from saga.failpoints import failpoint
from shop.notifications.outbox import SHOWN_DAYS
from shop.notifications.outbox import erase as erase_messages
from shop.orders.changes import erase as erase_orders
from shop.orders.changes import erase_tries
from shop.orders.order import read_stored
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.orders.tries import TRY
from shop.payments.elsewhere import is_paid_later, paid_before
from shop.retention.files import delete_files, delete_leftovers, find_mails
from shop.review.actions import erase as erase_reviews
from shop.settings import settings
from shop.values.money import currency_of

_BATCH_SIZE = 500
_ERASING = failpoint("the commit of erasing customers")
# Excludes orders that are open or under manual review, and orders with disputes, messages or events to
# handle. A message that could not be sent for many days does not keep its customer's data for ever.
_IS_ERASABLE = f"""
    o.outcome IN ('completed', 'rejected', 'out_of_stock', 'compensated') AND o.erased_at IS NULL
    AND o.finished_at < now() - make_interval(secs => :seconds)
    AND NOT EXISTS (
        SELECT 1 FROM outbox m WHERE m.order_id = o.id AND m.sent_at IS NULL AND m.refused_at IS NULL
            AND m.created_at > now() - interval '{SHOWN_DAYS} days')
    AND NOT EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id AND a.resolved_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM dispute d WHERE d.order_id = o.id AND d.closed_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM payment_event e WHERE e.order_id = o.id AND e.handled_at IS NULL)
"""  # noqa: S608  (a constant)
_NEXT = text(
    f"""
    SELECT o.id, o.outcome, o.amount_charged, o.finished_at, o.content, o.failure, o.reasons, o.undone
    FROM customer_order o
    WHERE {_IS_ERASABLE} AND (o.finished_at, o.id) > (CAST(:after AS timestamptz), CAST(:after_id AS text))
    ORDER BY o.finished_at, o.id LIMIT {_BATCH_SIZE} FOR UPDATE OF o SKIP LOCKED
    """  # noqa: S608  (constants)
)
_BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
_WHICH_ERASED = text(
    "SELECT id FROM customer_order WHERE id = ANY(CAST(:ids AS text[])) AND erased_at IS NOT NULL"
)


def erase_customers(days: float | None = None) -> int:
    """Erases the customer data of orders that ended at least `days` days ago (None: `CUSTOMER_DATA_DAYS`; if
    that is not set, erases nothing). Returns the number of orders.

    Skips orders that are open, under manual review, or disputed, or have unsent messages of the last
    `SHOWN_DAYS`. Erases hundreds of
    orders per transaction; concurrent calls process different orders. Deletes labels and mails in this
    process's `VAR_DIR`; other machines delete theirs (`shop.retention.files`). Must not be called in an event
    loop. Raises SQLAlchemyError if the database is unavailable, and OSError if a file cannot be deleted: run
    it again.
    """
    s = settings()
    if (days := s.retention.customer_data_days if days is None else days) is None:
        return 0
    mails = find_mails(s)
    delete_leftovers(s)
    erased, after = 0, (_BEGINNING, "")
    with sync_engine(s.database_url).connect() as connection:
        while True:
            with connection.begin() as running:
                values = {"seconds": days * 86_400, "after": after[0], "after_id": after[1]}
                rows = connection.execute(_NEXT, values).mappings().all()
                if not rows:
                    return erased
                delete_files(rows, s, mails)
                _erase(connection, rows)
                with _ERASING:
                    running.commit()
            erased, after = erased + len(rows), (rows[-1]["finished_at"], rows[-1]["id"])


def which_are_erased(order_ids: Iterable[str]) -> set[str]:
    """Returns the ids of those orders whose customer data is erased. Must not be called in an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return set(connection.execute(_WHICH_ERASED, {"ids": list(order_ids)}).scalars())


def _erase(connection: Connection, rows: Sequence[Any]) -> None:
    ids = [row["id"] for row in rows]
    entries = manual.read_entries(connection, ORDERS, ids)
    scrubbed_entries = [
        {**{name: scrubbed(value) for name, value in e.items()}, "id": e["id"], "step": e["step"]}
        for e in entries
    ]
    manual.redact(connection, ORDERS, scrubbed_entries)
    orders = [
        {
            "id": row["id"],
            "content": scrubbed_content(
                row["content"],
                row["id"],
                paid=row["outcome"] == Outcome.COMPLETED or row["amount_charged"] > 0,
            ),
            "failure": {**scrubbed(row["failure"] or {}), "message": ERASED, "reasons": [ERASED]},
            "reasons": [ERASED] if row["reasons"] else [],
            "undone": scrubbed(row["undone"]),
        }
        for row in rows
    ]
    erase_orders(connection, orders, ERASED)
    erase_tries(connection, ids, scrubbed, ERASED)
    erase_messages(connection, ids, ERASED)
    erase_reviews(connection, ids, ERASED)


ERASED = "erased"
"""Replaces a required text."""
_KEPT_KEYS = re.compile(
    r"(.*_)?(id|status|amount|at|timestamp|currency|code|fee|kind|number|model|method|carrier|service|step|compensation|total|value|"
    r"by_hand|off|late|url|key|generation_model|booked_at)|amount_.*|label|inventory|written_by"
)
_AMOUNTS = {"amount": True, "discount_amount": True, "tax_amount": True}
_KEPT_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("currency", "total_amount", "tax_amount", "shipping_amount", "discount_amount"), True),
    **dict.fromkeys(("tip_amount", "prices_include_tax"), True),
    "items": {
        "__all__": dict.fromkeys(
            "product_id quantity price line_total discount_amount tax_amount digital".split(), True
        )
    },
    "shipping_lines": {"__all__": _AMOUNTS},
    "fees": {"__all__": _AMOUNTS},
    "part_payments": {"__all__": {"method": True, "amount": True}},
}
"""The fields of a paid `Order` that stay: what was bought, and the amounts that its total is made of."""
_CUSTOMER_KEYS = re.compile(r".*(customer|user|mail|name|phone|address).*")
_KEPT_VALUES = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/+~-]{0,199}")
_MAX_DEPTH = 8


def scrubbed(value: Any, depth: int = 0) -> Any:
    """Returns the value without texts that may be customer data. Keeps numbers, booleans and null."""
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        return {
            key: scrubbed(each, depth + 1)
            for key, each in value.items()
            if not isinstance(each, str) or _is_kept(key, each)
        }
    if isinstance(value, list) and depth < _MAX_DEPTH:
        return [scrubbed(each, depth + 1) for each in value if not isinstance(each, str)]
    return None if isinstance(value, dict | list) else value


def scrubbed_content(content: dict[str, Any], order_id: str, *, paid: bool) -> dict[str, Any]:
    """Returns the content of an anonymous `Order`. `paid`: the order was valid, and keeps its items and
    amounts. Others keep the id and what `_paid_later` returns, as their content may be anything."""
    # The earlier tries, for the comparison with the gateway.
    tries = {TRY: content[TRY]} if TRY in content else {}
    kept: dict[str, Any] = {"items": [], "total_amount": "0.00"}
    if paid:
        kept = read_stored(content).model_dump(mode="json", include=_KEPT_FIELDS, exclude_defaults=True)
    return {**_paid_later(content), **kept, "id": order_id, "customer_id": ERASED, **tries}


def _paid_later(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields by which money that comes by transfer or on delivery is still recorded, and what of
    it has to be given back."""
    if not is_paid_later(content):
        return {}
    before = paid_before(content, whole=False)
    parts = {"part_payments": [{"method": "other", "amount": str(before)}]} if before else {}
    method = content["payment_info"]["method"]
    return {"currency": currency_of(content), "payment_info": {"method": method}, **parts}


def _is_kept(key: str, value: str) -> bool:
    return (
        _KEPT_KEYS.fullmatch(key) is not None
        and not _CUSTOMER_KEYS.fullmatch(key)
        and _KEPT_VALUES.fullmatch(value) is not None
    )
