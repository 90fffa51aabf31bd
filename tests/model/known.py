"""States of orders from which healthy workers have reached the correct outcome before:
they are not repeated.

Nothing else is left of a history once its workers are dead; and all that one order's recovery has to do with
another's is the stock. Distinguishing equivalent states costs time; not distinguishing states although
they differ would hide something. So what is left out here is only what recovery does not look at: times, and
the numbers of sequences as long as their sequence is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import psycopg

from shop.settings import settings
from tests.model.gateway import Wire

_STATES = """
SELECT o.id, json_build_array(
    o.fence > 0, o.lone_deaths >= %s, o.outcome, o.failing_step, o.failure, o.cancel_requested_at IS NOT NULL,
    o.amount_charged, o.amount_refunded, o.amount_at_risk,
    r.state, h.order_id IS NOT NULL, h.returned_at IS NOT NULL,
    a.order_id IS NOT NULL, a.resolution,
    (SELECT json_agg(m.kind ORDER BY m.kind) FROM outbox m WHERE m.order_id = o.id),
    (SELECT json_agg(json_build_array(
        s.step, s.status, least(s.attempts, 2), s.result IS NULL, s.undo_due, s.undo_status,
        s.undo_error ->> 'code', s.undo_error ->> 'refusals') ORDER BY s.number)
        FROM order_step s WHERE s.order_id = o.id),
    (SELECT json_agg(s.step ORDER BY s.undo_number)
        FROM order_step s WHERE s.order_id = o.id AND s.undo_number IS NOT NULL),
    (SELECT json_agg(p.on_hand - p.reserved ORDER BY p.id) FROM product p))::text,
    (SELECT s.notes ->> 'payment_id' FROM order_step s WHERE s.order_id = o.id AND s.step = 'process_payment')
FROM customer_order o LEFT JOIN reservation r ON r.order_id = o.id LEFT JOIN shipment h ON h.order_id = o.id
    LEFT JOIN attention a ON a.order_id = o.id
"""
_AGAIN = 3
"""Asking the gateway more often than this for the same makes no difference any more."""


def states(db: psycopg.Connection, wire: Wire, kinds: Mapping[str, str]) -> set[bytes]:
    """All that recovery can see, order by order (id to kind)."""
    found = set()
    for order_id, rows, noted in db.execute(_STATES, [settings().max_takeovers], prepare=True):
        payments = wire.ledger.find(order_id)
        amounts = [(payment.status, payment.refunded, payment.id == noted) for payment in payments]
        asked = sorted(
            (what, min(times, _AGAIN)) for what, times in wire.asked_about(order_id, payments).items()
        )
        found.add(
            orjson.dumps(
                [
                    kinds[order_id],
                    rows,
                    amounts,
                    noted is None,
                    asked,
                    wire.ledger.behaviour.model_dump(mode="json"),
                ]
            )
        )
    return found
