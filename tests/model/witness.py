"""What is asked after every commit and every movement of money: the tables, one by one, and the gateway's own ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from shop.payments.gateway import PaymentStatus
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import PaymentRecord

_ORDERS = """
SELECT o.id, o.fence, o.takeovers, o.outcome, o.failing_step, o.failure ->> 'code' AS failure, o.currency,
    o.amount_charged AS charged, o.amount_refunded AS refunded, o.amount_at_risk AS at_risk, CAST(o.content ->> 'total_amount' AS numeric) AS total,
    o.lease_id, l.until > clock_timestamp() AS lease_lives,
    (SELECT jsonb_object_agg(s.step, jsonb_build_array(s.xmin::text, s.status, s.undo_due, s.undo_status)) FROM order_step s
     WHERE s.order_id = o.id) AS journal,
    (SELECT s.undo_error ->> 'code' FROM order_step s WHERE s.order_id = o.id AND s.step = 'process_payment') AS undo_error,
    r.state AS reservation, h.items AS shipped,
    (SELECT jsonb_object_agg(m.kind, m.id) FROM outbox m WHERE m.order_id = o.id) AS mails,
    (SELECT jsonb_agg(jsonb_build_array(p.id, p.received, p.on_hand, p.reserved,
        coalesce((SELECT sum((s.items ->> p.id)::bigint) FROM shipment s), 0),
        coalesce((SELECT sum((r.items ->> p.id)::bigint) FROM reservation r WHERE r.state = 'held'), 0))) FROM product p) AS stock
FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id LEFT JOIN reservation r ON r.order_id = o.id LEFT JOIN shipment h ON h.order_id = o.id
"""
@dataclass(frozen=True)
class Money:
    """One order's payments as the gateway's ledger has them."""

    charges: int
    """How many payments were charged and are not wholly given back."""
    charged: Decimal
    refunded: Decimal

    @property
    def kept(self) -> Decimal:
        return self.charged - self.refunded

    @classmethod
    def of(cls, payments: tuple[PaymentRecord, ...]) -> Money:
        paid = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
        charged, refunded = sum(payment.amount for payment in paid), sum(payment.refunded for payment in paid)
        return cls(sum(payment.refunded < payment.amount for payment in paid), Decimal(charged) / 100, Decimal(refunded) / 100)


@dataclass(frozen=True)
class Stock:
    """One product's pieces, and what shipments and reservations say of them."""

    product: str
    received: int
    on_hand: int
    reserved: int
    shipped: int
    held: int

    def faults(self) -> Iterator[str]:
        if not 0 <= self.reserved <= self.on_hand:
            yield f"{self.reserved} of {self.on_hand} pieces are reserved"
        if self.on_hand + self.shipped != self.received:
            yield f"{self.on_hand} on hand and {self.shipped} shipped of {self.received}"
        if self.reserved != self.held:
            yield f"{self.reserved} reserved, and {self.held} held by orders"


class Witness:
    """Compares what is with what was, and finds what must not be."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._db = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)
        self.ledger = ledger
        self.orders: dict[str, Any] = {}
        self.stock: list[Stock] = []
        self.faults: list[str] = []
        self.at_end: dict[str, Money] = {}
        """What the gateway had of each order when its outcome was written."""

    def close(self) -> None:
        self._db.close()

    def begin(self, ledger: Ledger) -> None:
        self.ledger, self.orders, self.faults, self.at_end = ledger, {}, [], {}

    def money(self, order_id: str) -> Money:
        return Money.of(self.ledger.find(order_id))

    # -- while orders are under way

    def after_commit(self, who: str, fences: dict[str, int]) -> None:
        """Somebody has committed something."""
        rows = self._db.execute(_ORDERS).fetchall()
        before, self.orders = self.orders, {row.id: row._replace(stock=None) for row in rows}
        for order_id, now in self.orders.items():
            was = before.get(order_id)
            if now.outcome is not None:
                self.at_end.setdefault(order_id, self.money(order_id))
            if was is not None and was != now:
                self.faults += [f"{order_id}: {fault} (by {who})" for fault in self._change(was, now, fences)]
            if was != now:
                self.faults += [f"{order_id}: {fault} (by {who})" for fault in self._standing(now)]
        self.stock = [Stock(*row) for row in rows[0].stock] if rows else []
        self.faults += [f"{stock.product}: {fault} (by {who})" for stock in self.stock for fault in stock.faults()]

    def after_request(self, what: str) -> None:
        """The gateway has done something."""
        for now in self.orders.values():
            self.faults += [f"{now.id}: {fault} (gateway: {what})" for fault in self._standing(now)]

    def _change(self, was: Any, now: Any, fences: dict[str, int]) -> Iterator[str]:
        wrote = _written(was) != _written(now)
        if now.fence < was.fence:
            yield f"the fence went from {was.fence} back to {now.fence}"
        expired = was.reservation == "held" and now.reservation == "released" and _changed_steps(was, now) <= {"check_inventory"}
        if now.fence > was.fence + 1:
            yield f"the fence went from {was.fence} to {now.fence} in one commit"
        if now.fence > was.fence:
            if was.lease_id is not None and was.lease_lives and was.lease_id != now.lease_id:
                yield "was taken from a worker whose lease lives"
            if wrote and not expired:
                yield "was written about in the commit that claimed it"
        elif wrote and fences.get(now.id) != was.fence and not (expired and was.outcome is not None):
            yield f"was written about under the fence {fences.get(now.id)}, when it was {was.fence}: {_difference(was, now)}"
        if was.outcome is not None and wrote and not expired:
            yield f"has ended, and was written about: {_difference(was, now)}"
        if was.shipped is not None and now.shipped != was.shipped:
            yield "its shipment changed"
        if _undo(was, "process_payment") != "done" and _undo(now, "process_payment") == "done" and self.money(now.id).kept:
            yield f"its refund is called done, and the gateway has kept {self.money(now.id).kept}"

    def _standing(self, now: Any) -> Iterator[str]:
        """What holds at any time."""
        money = self.money(now.id)
        if money.charges > 1:
            yield "is charged more than once"
        if now.shipped is not None and (money.charges != 1 or money.refunded or money.kept != now.total):
            yield f"is shipped, and the gateway has kept {money.kept} of {now.total}"
        if now.shipped is None and now.mails and "confirmation" in now.mails:
            yield "is confirmed, and not shipped"
        if now.failure == "step_broken" or now.failing_step is not None and now.failure is None and now.outcome is None:
            yield f"{now.failing_step} failed in a way that nobody foresaw"
        if now.outcome in {"rejected", "out_of_stock", "compensated"} and money.kept:
            yield f"is {now.outcome}, and the gateway has kept {money.kept}"
        if now.outcome is not None and (now.outcome == "completed") != (now.shipped is not None):
            yield f"is {now.outcome}, and {'not ' if now.shipped is None else ''}shipped"
        if now.outcome in {"rejected", "out_of_stock", "compensated"} and any(due for _, _, due, _ in (now.journal or {}).values()):
            yield f"is {now.outcome}, and something is still to be undone"

    # -- at rest

    def at_rest(self) -> Iterator[str]:
        """What must be so once every order has its outcome: promises 1 to 5."""
        kept, completed, at_risk = Decimal(0), Decimal(0), Decimal(0)
        for now in self.orders.values():
            money = self.money(now.id)
            if now.outcome is None:
                yield f"{now.id}: has no outcome"
                continue
            yield from (f"{now.id}: {fault}" for fault in self._standing(now))
            yield from (f"{now.id}: {fault}" for fault in self._end(now, money))
            kept += money.kept
            completed += now.total if now.outcome == "completed" else 0
            if now.outcome == "needs_attention":  # what was unclear when it ended may have become clear by itself
                at_risk += now.at_risk if money == self.at_end[now.id] and _known(now) else money.kept
        if kept != completed + at_risk:
            yield f"the gateway has kept {kept}; completed orders are {completed}, and {at_risk} are at risk"
        for stock in self.stock:
            if stock.reserved:
                yield f"{stock.product}: {stock.reserved} pieces are reserved, and no order is open"

    def _end(self, now: Any, money: Money) -> Iterator[str]:
        mails = set(now.mails or {})
        match now.outcome:
            case "completed":
                if mails != {"confirmation"}:
                    yield f"is completed, and its mails are {sorted(mails)}"
                if (now.charged, now.refunded) != (money.charged, money.refunded) or money.kept != now.total:
                    yield f"is completed at {now.total}: we say {now.charged} - {now.refunded}, the gateway {money.charged} - {money.refunded}"
            case "needs_attention":
                if not any(due and undo == "failed" for _, _, due, undo in (now.journal or {}).values()):
                    yield "needs attention, and nothing failed to be undone"
                if now.at_risk < money.kept:
                    yield f"{now.at_risk} are at risk, and the gateway has kept {money.kept}"
                if money == self.at_end[now.id] and _known(now) and now.refunded != money.refunded:
                    yield f"needs attention: we say {now.refunded} went back, the gateway {money.refunded}"
            case _:
                if (now.charged, now.refunded) != (money.charged, money.refunded):
                    yield f"is {now.outcome}: we say {now.charged} - {now.refunded}, the gateway {money.charged} - {money.refunded}"
                if mails != ({"refund"} if now.refunded else set()):
                    yield f"is {now.outcome}, and its mails are {sorted(mails)}"


def _known(row: Any) -> bool:
    """Whether the gateway had answered what became of the money, when the order ended."""
    return row.undo_error == "refund_refused"


def _written(row: Any) -> Any:
    """What only its holder may write."""
    return {step: entry[0] for step, entry in (row.journal or {}).items()}, row.outcome, row.failure, row.shipped, row.reservation, row.mails


def _changed_steps(was: Any, now: Any) -> set[str]:
    before, after = was.journal or {}, now.journal or {}
    return {step for step in after if before.get(step) != after[step]}


def _difference(was: Any, now: Any) -> str:
    pairs = zip(was._fields, was, now, strict=True)
    return ", ".join(f"{field}: {old!r} -> {new!r}" for field, old, new in pairs if old != new)


def _undo(row: Any, step: str) -> str | None:
    entry = (row.journal or {}).get(step)
    return entry[3] if entry else None
