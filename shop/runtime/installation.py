"""The installation id: distinguishes this shop's payments, parcels and reservations from those of others that
use the same accounts.

Order ids are not enough: a second shop, or a staging system, may use the same gateway account and the same
order ids. The migration creates the id once, in the database. A copy of a database has the id of its
original: see docs/integrations/stripe.md.
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
    """This installation's identity in shared accounts."""

    id: str
    """16 hexadecimal digits."""
    made_at: datetime
    """When the id was created. What began earlier may not be marked with it."""


_known: dict[str, Installation] = {}


async def installation() -> Installation:
    """Returns the database's installation, read once per database. Raises database errors."""
    url = settings().database_url
    if url not in _known:
        async with transaction() as tx:
            row = (await tx.execute(_READ)).one()
        _known[url] = Installation(row.id, row.made_at)
    return _known[url]


def read_installation_id(connection: Connection) -> str:
    """Reads the installation id, for callers without an event loop."""
    return str(connection.execute(_READ).one().id)


async def installation_id() -> str:
    """Returns the installation id. Raises database errors."""
    return (await installation()).id
