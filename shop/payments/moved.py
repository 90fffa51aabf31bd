"""What money has moved for an order, according to its journal."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from shop.orders.order import OrderInstance
from shop.orders.tries import earlier_money
from shop.payments.charge import LATE, STEP
from shop.payments.elsewhere import paid_before
from shop.payments.settled import Settled, settled_in


def money_moved(instance: OrderInstance) -> tuple[Decimal, Decimal, Decimal]:
    """Returns (charged, refunded, at risk) according to the journal, by all tries. At risk: possibly charged
    and not known to be refunded."""
    earlier = earlier_money(instance.content)
    charged, refunded, at_risk = _moved_in_this_try(instance)
    return earlier + charged, earlier + refunded, at_risk


def _moved_in_this_try(instance: OrderInstance) -> tuple[Decimal, Decimal, Decimal]:
    entry = instance.journal.get(STEP)
    if entry is None:
        return Decimal(0), Decimal(0), Decimal(0)
    late = Decimal(entry.notes.get(LATE, 0))
    undone, done, error = entry.undo_result or {}, entry.result or {}, entry.undo_error or {}
    if not undone and not error and entry.undo_status is None:
        return late + Decimal(done.get("amount_charged", 0)), late, Decimal(0)
    found = undone or error
    refunded = Decimal(found.get("refunded_amount", 0))
    charged = max(late + Decimal(done.get("amount_charged", 0)), Decimal(found.get("amount_charged", 0)))
    if not entry.undo_due or entry.undo_status != "failed":
        return charged, refunded, Decimal(0)
    if (at_risk := error.get("amount_at_risk")) is None:
        at_risk = sum(Decimal(done.get(name, 0)) for name in ("amount_charged", "amount_elsewhere"))
        settled = settled_in(entry) or Settled()
        at_risk = max(
            (at_risk if done else _total(instance)) - settled.gateway - settled.received, Decimal(0)
        )
    return charged, refunded, Decimal(at_risk)


def _total(instance: OrderInstance) -> Decimal:
    try:
        return instance.payload.total_amount
    except ValidationError:
        return paid_before(instance.content)


def moved_elsewhere(instance: OrderInstance) -> Decimal:
    """Returns what others have taken for the order, or will collect. Money that a person gave back is in
    it."""
    entry = instance.journal.get(STEP)
    if entry is None:
        return Decimal(0)
    settled = settled_in(entry) or Settled()
    if entry.undo_error is not None:
        if "amount_elsewhere" in entry.undo_error:  # what is not settled yet
            return settled.elsewhere + _elsewhere(entry.undo_error)
        known = paid_before(instance.content) if entry.result is None else _elsewhere(entry.result)
        return settled.uncollected + max(settled.received, known)
    known = _elsewhere(entry.undo_result if entry.undo_result is not None else entry.result or {})
    return max(settled.elsewhere, known)


def _elsewhere(result: Mapping[str, Any]) -> Decimal:
    return Decimal(result.get("amount_elsewhere", 0))


def given_by_hand(instance: OrderInstance) -> Decimal:
    """Returns the amount that people reported as refunded outside the gateway."""
    return (settled_in(instance.journal.get(STEP)) or Settled()).by_hand
