"""How often an order waits for the database: its transactions that write, and their statements."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, event

from flows.process_pending_orders import process_pending_orders
from saga.database import engine
from shop.orders import intake
from tests.integration.world import World, an_order

_OWN = re.compile(r"(INSERT INTO|UPDATE) (customer_order|order_step)\b")
TRANSACTIONS = {
    "validated and reserved, and the intent to charge": ["order_step"],
    "the payment's id": ["order_step"],
    "charged": ["order_step"],
    "shipped": ["customer_order", "order_step"],
    "notified, and the outcome": ["order_step", "customer_order"],
}
"""The tables of each transaction that writes about a claimed order."""
_OTHERS = ("WITH mine AS", "DELETE FROM lease")
"""In transactions about no order in particular: claims, which are also sent to see whether one waits,
and the end of a lease."""
MOST_ROUND_TRIPS = 39
"""Of these transactions together: a BEGIN, the statements and a COMMIT for each."""


@contextmanager
def recording() -> Iterator[list[list[str]]]:
    """The statements of each transaction that commits meanwhile."""
    committed: list[list[str]] = []
    running: dict[int, list[str]] = {}

    def say(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        running.setdefault(id(connection), []).append(statement)

    def commit(connection: Connection) -> None:
        committed.append(running.pop(id(connection), []))

    def roll_back(connection: Connection) -> None:
        running.pop(id(connection), None)

    handlers: dict[str, Callable[..., None]] = {
        "before_cursor_execute": say,
        "commit": commit,
        "rollback": roll_back,
    }
    for name, handler in handlers.items():
        event.listen(engine().sync_engine, name, handler)
    try:
        yield committed
    finally:
        for name, handler in handlers.items():
            event.remove(engine().sync_engine, name, handler)


async def test_an_order_waits_for_no_more_commits_than_its_guarantees_need(saga: World, unique: str) -> None:
    order_id = f"TRIPS-{unique}"
    intake.submit([an_order(order_id)])
    with recording() as committed:
        await process_pending_orders(consumer_seconds=0)
    assert saga.order(order_id).outcome == "completed"
    about_orders = [t for t in committed if not any(other in "".join(t) for other in _OTHERS)]
    own = [t for t in about_orders if any(map(_OWN.search, t))]
    tables = [
        list(dict.fromkeys(m[2] for statement in t for m in [_OWN.search(statement)] if m)) for t in own
    ]
    assert tables == list(TRANSACTIONS.values())
    assert sum(len(t) + 2 for t in own) <= MOST_ROUND_TRIPS
