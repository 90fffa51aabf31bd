"""Tells errors of the infrastructure from errors of an order: only the latter may undo one."""

from __future__ import annotations

import errno

import httpx

from shop.database import does_not_answer, is_database_trouble, is_schema_mismatch

_OF_ITS_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
"""What the operating system says of a name that it does not take; an order can bring such a name."""


def is_infrastructure_trouble(error: BaseException) -> bool:
    """Returns whether the database, a disk, the memory or a network is at fault. No order is to blame for that: it waits."""
    if isinstance(error, OSError):
        return error.errno not in _OF_ITS_NAME
    return isinstance(error, MemoryError | httpx.TransportError) or is_database_trouble(error) or is_schema_mismatch(error)


def may_be_one_orders(error: BaseException) -> bool:
    """Returns whether one order may have caused it. What the database says of a statement may be about a single row, even a code that is
    about the server (a damaged page, for example)."""
    return not is_infrastructure_trouble(error) or (is_database_trouble(error) and not does_not_answer(error))
