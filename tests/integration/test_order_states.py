"""Orders change their state as `shop.orders.outcomes` declares, whatever happens to them."""

from __future__ import annotations

import asyncio

from flows.cancel_order import cancel_order
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.orders.outcomes import TRANSITIONS, OrderState, Outcome
from tests.integration.test_process_order import stop_while_charging
from tests.integration.world import World, an_order

RECORD = (
    (
        "CREATE TABLE state_change "
        "(number bigserial, tx bigint DEFAULT txid_current(), id text, old text, new text)"
    ),
    """
    CREATE FUNCTION state_of(o customer_order) RETURNS text LANGUAGE sql AS $$ SELECT CASE
        WHEN o.id IS NULL THEN NULL WHEN o.outcome IS NOT NULL THEN o.outcome
        WHEN o.lease_id IS NULL THEN 'waiting' WHEN o.failure IS NOT NULL THEN 'compensating'
        WHEN o.status = 'shipped' THEN 'shipped' ELSE 'claimed' END $$
    """,
    """
    CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO state_change (id, old, new) VALUES (NEW.id, state_of(OLD), state_of(NEW));
        RETURN NULL; END $$
    """,
    (
        "CREATE TRIGGER record_change AFTER INSERT OR UPDATE ON customer_order "
        "FOR EACH ROW EXECUTE FUNCTION record_change()"
    ),
)
CHANGES = """
    SELECT DISTINCT old, new FROM (
        SELECT (array_agg(old ORDER BY number))[1] AS old, (array_agg(new ORDER BY number DESC))[1] AS new
        FROM state_change GROUP BY tx, id
    ) AS per_transaction WHERE old IS DISTINCT FROM new
"""


async def test_every_change_is_declared(saga: World, unique: str) -> None:
    for statement in RECORD:
        saga.sql(statement)
    for name, fields in {
        "GOOD": {},
        "BAD": {"items": []},
        "SOLD-OUT": {"product": "OUT-OF-STOCK"},
        "DECLINED": {"card": "0000"},
        "REVIEW": {"card": "0259", "country": "AQ"},
    }.items():
        await process_order(an_order(f"{name}-{unique}", **fields), return_state=True)
    await stop_while_charging(saga, an_order(f"STOPPED-{unique}", card="0341"))
    saga.sql("UPDATE attention SET next_retry_at = now()")
    await housekeeping()
    await cancel_order(f"GOOD-{unique}", reason="unwanted", requested_by="ann", confirmed=True)
    await asyncio.to_thread(intake.submit, [an_order(f"PENDING-{unique}")])
    await process_pending_orders(consumer_seconds=0)
    seen = {(row.old, row.new) for row in saga.sql(CHANGES)}
    assert seen <= {(transition.source, transition.target) for transition in TRANSITIONS}
    assert {new for _, new in seen} == {*OrderState, *Outcome}
