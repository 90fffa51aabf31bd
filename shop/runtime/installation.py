"""The installation id: tells this shop's payments, parcels and reservations from those of others in the same account.

Order ids are not enough: a second shop, or a staging system, may use the same gateway account and count its orders in the same way.
The migration makes the id once; it stays in the database. A copy of a database has the id of its original: see docs/integrations/stripe.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from saga.database import transaction
from shop.settings import settings

_READ = text("SELECT id, made_at FROM installation")


@dataclass(frozen=True, slots=True)
class Installation:
    """Who we are, at everything that we share with others."""

    id: str
    """16 hexadecimal digits."""
    made_at: datetime
    """What was begun before this time may not bear the id."""


_known: dict[str, Installation] = {}


async def installation() -> Installation:
    """The installation that the database belongs to; read once for each database. Raises what the database raises."""
    url = settings().database_url
    if url not in _known:
        async with transaction() as tx:
            row = (await tx.execute(_READ)).one()
        _known[url] = Installation(row.id, row.made_at)
    return _known[url]


def read_installation_id(connection: Connection) -> str:
    """The id alone, for callers without an event loop."""
    return str(connection.execute(_READ).one().id)


async def installation_id() -> str:
    """The id alone."""
    return (await installation()).id
