"""What is asked after every commit and every movement of money:
the tables, one by one, and the gateway's own ledger."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import orjson
import psycopg

from shop.payments.sandbox.ledger import Ledger
from tests.model.core import join
from tests.model.seen import Money, Seen, Stock

UNFORESEEN = "nobody foresaw"
_LOOK = """
SELECT json_build_object(
    'orders', (SELECT json_agg(json_build_array(
        o.id, o.fence, o.outcome, o.failing_step, o.failure ->> 'code', o.content ->> 'total_amount',
        o.amount_charged::text, o.amount_refunded::text, o.amount_at_risk::text,
        o.lease_id, l.until > clock_timestamp(), o.cancel_requested_at IS NOT NULL,
        (SELECT json_object_agg(s.step,
            json_build_array(s.xmin, s.status, s.undo_due, s.undo_status, s.undo_error ->> 'code'))
         FROM order_step s WHERE s.order_id = o.id),
        r.state, r.items, h.tracking_number, h.returned_at IS NOT NULL, h.items,
        (SELECT json_agg(m.kind ORDER BY m.id) FROM outbox m WHERE m.order_id = o.id),
        a.amount_at_risk::text, a.resolution))
        FROM customer_order o
        LEFT JOIN lease l ON l.id = o.lease_id LEFT JOIN reservation r ON r.order_id = o.id
        LEFT JOIN shipment h ON h.order_id = o.id LEFT JOIN attention a ON a.order_id = o.id),
    'stock', (SELECT json_agg(json_build_array(p.id, p.received, p.on_hand, p.reserved)) FROM product p))
"""
_NAME = b"look"


class Witness:
    """Compares what is with what was, and finds what must not be."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._db = psycopg.connect(url, autocommit=True)
        join([self._db.pgconn.backend_pid])
        self._db.pgconn.prepare(_NAME, _LOOK.encode())
        self._last = b""
        self.ledger = ledger
        self.orders: dict[str, Seen] = {}
        self.stock: list[Stock] = []
        self.faults: list[str] = []
        self.at_end: dict[str, Money] = {}
        """What the gateway had of each order when its outcome was written."""
        self._money: dict[str, Money] = {}

    def close(self) -> None:
        self._db.close()

    def begin(self, ledger: Ledger) -> None:
        self.ledger, self.orders, self.faults, self.at_end, self._last = ledger, {}, [], {}, b""
        self._money.clear()

    def money(self, order_id: str) -> Money:
        if order_id not in self._money:
            self._money[order_id] = Money.of(self.ledger.find(order_id))
        return self._money[order_id]

    # -- while orders are under way

    def after_commit(self, who: str, fences: dict[str, int]) -> None:
        """Somebody has committed something."""
        answer = self._db.pgconn.exec_prepared(_NAME, []).get_value(0, 0) or b""
        if answer == self._last:
            return
        self._last, seen = answer, orjson.loads(answer)
        before, self.orders = self.orders, {row[0]: Seen._make(row) for row in seen["orders"] or []}
        for order_id, now in self.orders.items():
            was = before.get(order_id)
            if was == now:
                continue
            if now.outcome is None:
                self.at_end.pop(order_id, None)
            else:
                self.at_end.setdefault(order_id, self.money(order_id))
            if was is not None:
                self._blame(now, self._change(was, now, fences), f"by {who}")
            self._blame(now, self._standing(now), f"by {who}")
        self.stock = [Stock.of(*row, self.orders.values()) for row in seen["stock"]]
        self.faults += [
            f"{stock.product}: {fault} (by {who})" for stock in self.stock for fault in stock.faults()
        ]

    def after_request(self, what: str) -> None:
        """The gateway has done something."""
        self._money.clear()
        for now in self.orders.values():
            self._blame(now, self._standing(now), f"gateway: {what}")

    def _blame(self, order: Seen, faults: Iterator[str], whose: str) -> None:
        self.faults += [f"{order.id}: {fault} ({whose})" for fault in faults]

    def _change(self, was: Seen, now: Seen, fences: dict[str, int]) -> Iterator[str]:
        expired, opened = was.gave_back(now), was.opens_again_as(now)
        wrote = was.written != now.written and not opened
        if now.fence < was.fence:
            yield f"the fence went from {was.fence} back to {now.fence}"
        if now.fence > was.fence + 1:
            yield f"the fence went from {was.fence} to {now.fence} in one commit"
        if now.fence > was.fence:
            if was.lease_id is not None and was.lease_lives and was.lease_id != now.lease_id:
                yield "was taken from a worker whose lease lives"
            if wrote and not expired:
                yield "was written about in the commit that claimed it"
        elif wrote and fences.get(now.id) != was.fence and not (expired and was.outcome is not None):
            yield (
                f"was written about under the fence {fences.get(now.id)}, "
                f"when it was {was.fence}: {was.difference(now)}"
            )
        if was.outcome is not None and wrote and not expired:
            yield f"has ended, and was written about: {was.difference(now)}"
        if was.outcome != now.outcome and was.outcome is not None and not opened:
            yield f"was {was.outcome}, and is {now.outcome}"
        if was.parcel is not None and (now.parcel != was.parcel or (was.returned and not now.returned)):
            yield "its parcel changed"
        if was.cancelled and not now.cancelled:
            yield "is not to be cancelled any more"
        if now.parcel is not None and was.parcel is None and now.cancelled:
            yield "was shipped although it was to be cancelled"
        if (
            was.undo("process_payment") != "done"
            and now.undo("process_payment") == "done"
            and self.money(now.id).kept
        ):
            yield f"its refund is called done, and the gateway has kept {self.money(now.id).kept}"

    def _standing(self, now: Seen) -> Iterator[str]:
        """What holds at any time."""
        money = self.money(now.id)
        if money.charges > 1:
            yield "is charged more than once"
        if (
            now.parcel is not None
            and now.failure is None
            and (money.charges != 1 or money.refunded or money.kept != now.total)
        ):
            yield f"is shipped, and the gateway has kept {money.kept} of {now.total}"
        if now.parcel is not None and now.failure is not None and not now.cancelled:
            yield f"is shipped, and it is undone because of {now.failure}"
        if now.parcel is None and "confirmation" in now.mails:
            yield "is confirmed, and not shipped"
        if now.returned and "confirmation" in now.mails:
            yield "came back, and a confirmation is going to be sent"
        if now.failure == "step_broken":
            yield f"{now.failing_step} failed in a way that {UNFORESEEN}"
        if now.failing_step is not None and now.failure is None and now.outcome is None:
            yield "is being undone, and nobody wrote down why"
        if now.outcome in {"rejected", "out_of_stock", "compensated"} and money.kept:
            yield f"is {now.outcome}, and the gateway has kept {money.kept}"
        if (
            now.outcome is not None
            and (now.outcome == "completed") != (now.parcel is not None and not now.returned)
            and not now.due
        ):
            returned = "returned" if now.returned else "not returned"
            yield f"is {now.outcome}, and its parcel is {now.parcel}, {returned}"
        if now.outcome == "completed" and now.cancelled:
            yield "is completed although it was to be cancelled"
        if now.outcome in {"rejected", "out_of_stock", "compensated"} and now.due:
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
            # what was unclear when it ended may have become clear by itself
            if now.outcome == "needs_attention":
                at_risk += Decimal(now.at_risk) if self._is_clear(now, money) else money.kept
        if kept != completed + at_risk:
            yield f"the gateway has kept {kept}; completed orders are {completed}, and {at_risk} are at risk"
        for stock in self.stock:
            if stock.reserved:
                yield f"{stock.product}: {stock.reserved} pieces are reserved, and no order is open"

    def _is_clear(self, now: Seen, money: Money) -> bool:
        """Whether the gateway had answered what became of the money when the order ended,
        and nothing has moved since."""
        return now.refund_error == "refund_refused" and money == self.at_end[now.id]

    def _end(self, now: Seen, money: Money) -> Iterator[str]:
        recorded = (Decimal(now.charged), Decimal(now.refunded))
        match now.outcome:
            case "completed":
                if now.mails != ["confirmation"]:
                    yield f"is completed, and its mails are {now.mails}"
                if recorded != (money.charged, money.refunded) or money.kept != now.total:
                    yield (
                        f"is completed at {now.total}: we say {recorded}, "
                        f"the gateway {money.charged} - {money.refunded}"
                    )
            case "needs_attention":
                if not any(due and undo == "failed" for _, _, due, undo, _ in now.journal.values()):
                    yield "needs attention, and nothing failed to be undone"
                if Decimal(now.at_risk) < money.kept:
                    yield f"{now.at_risk} are at risk, and the gateway has kept {money.kept}"
                if (
                    now.in_review is None
                    or now.resolution is not None
                    or Decimal(now.in_review) != Decimal(now.at_risk)
                ):
                    yield (
                        f"needs attention at {now.at_risk}, "
                        f"and the review queue has {now.in_review}, {now.resolution}"
                    )
                if self._is_clear(now, money) and Decimal(now.refunded) != money.refunded:
                    yield f"needs attention: we say {now.refunded} went back, the gateway {money.refunded}"
            case _:
                if recorded != (money.charged, money.refunded):
                    yield (
                        f"is {now.outcome}: we say {recorded}, the gateway {money.charged} - {money.refunded}"
                    )
                if now.mails != _notices(now, *recorded):
                    yield f"is {now.outcome}, and its mails are {now.mails}"
                if now.in_review is not None and now.resolution != "undone":
                    yield f"is {now.outcome}, and still under review"


def _notices(now: Seen, charged: Decimal, refunded: Decimal) -> list[str]:
    """The mail to the customer of an order that was not completed."""
    if refunded:
        return ["refund"]
    if charged:
        return []
    if "out_of_stock" in {now.failure, now.outcome}:  # with nothing to undo, no failure is kept
        return ["out_of_stock"]
    asked_for = now.failure in {"cancelled", "returned"}
    return (
        ["payment_failed"]
        if now.failing_step == "process_payment" and not asked_for and now.outcome == "compensated"
        else []
    )
