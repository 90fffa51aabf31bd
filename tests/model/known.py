"""States from which healthy workers have brought every order to its right end before: they need not do so again.

Nothing else is left of a history once its workers are dead. States that are told apart in vain cost time; states that are not told apart
although they differ would hide something, so what is left out here is only what recovery does not look at: times, and the numbers of
sequences as long as their sequence is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import psycopg

from shop.settings import settings
from tests.model.gateway import Wire

_STATE = """
SELECT coalesce(json_agg(json_build_array(o.id, o.fence > 0, o.takeovers >= %s, o.outcome, o.failing_step, o.failure, o.cancel_requested_at IS NOT NULL,
    r.state, h.order_id IS NOT NULL, h.returned_at IS NOT NULL, a.resolution, a.order_id IS NOT NULL,
    (SELECT json_agg(m.kind ORDER BY m.kind) FROM outbox m WHERE m.order_id = o.id),
    (SELECT json_agg(json_build_array(s.step, s.status, least(s.attempts, 2), s.result IS NULL, s.undo_due, s.undo_status,
        s.undo_error ->> 'code', s.undo_error ->> 'refusals') ORDER BY s.number) FROM order_step s WHERE s.order_id = o.id),
    (SELECT json_agg(s.step ORDER BY s.undo_number) FROM order_step s WHERE s.order_id = o.id AND s.undo_number IS NOT NULL)
    ) ORDER BY o.number), '[]')::text,
    (SELECT coalesce(json_object_agg(s.order_id, s.notes ->> 'payment_id'), '{}')::text FROM order_step s WHERE s.notes ? 'payment_id')
FROM customer_order o LEFT JOIN reservation r ON r.order_id = o.id LEFT JOIN shipment h ON h.order_id = o.id LEFT JOIN attention a ON a.order_id = o.id
"""


def state(db: psycopg.Connection, wire: Wire, kinds: Mapping[str, str]) -> bytes:
    """All that recovery can see of these orders (id to kind)."""
    row = db.execute(_STATE, [settings().max_takeovers]).fetchone()
    assert row is not None
    noted = orjson.loads(row[1])
    money = []
    for order_id, kind in kinds.items():
        payments = [(payment.status, payment.refunded, noted.get(order_id) == payment.id) for payment in wire.ledger.find(order_id)]
        money.append((kind, payments, order_id in noted))
    asked = sorted((what, min(times, 3)) for what, times in wire.asked.items())
    return orjson.dumps([row[0], money, asked, wire.ledger.behaviour.model_dump(mode="json")])
