"""Distinguishes infrastructure errors from errors of an instance: only the latter may compensate one."""

from __future__ import annotations

import errno

import httpx

from saga.database import is_database_error, is_schema_mismatch, is_unreachable

_INVALID_FILE_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
"""The operating system's errors for an invalid file name, which can come from an instance's content."""


def is_infrastructure_error(error: BaseException) -> bool:
    """Returns whether the database, a disk, the memory or a network is at fault. Then the instance is
    postponed, not compensated."""
    if isinstance(error, OSError):
        return error.errno not in _INVALID_FILE_NAME
    return (
        isinstance(error, MemoryError | httpx.TransportError)
        or is_database_error(error)
        or is_schema_mismatch(error)
    )


def may_concern_one_instance(error: BaseException) -> bool:
    """Returns whether a single instance may have caused the error. An error that the database reports may
    concern one row, even if its code concerns the server (a damaged page, for example)."""
    return not is_infrastructure_error(error) or (is_database_error(error) and not is_unreachable(error))
