"""Explains errors of a command that are not caused by its code."""

from __future__ import annotations

from pydantic import ValidationError

from deployments.database_errors import described, reason
from deployments.environment import UnreadableSecret
from saga.database import is_database_error, is_schema_mismatch
from shop.monitoring.config import MonitoringConfigError
from shop.runtime.extras import MissingExtra
from shop.settings import what_is_wrong


def explanation(error: Exception) -> str | None:
    """Returns a line for people; None for an error in the code."""
    if isinstance(error, ValidationError):
        return what_is_wrong(error)
    if isinstance(error, MissingExtra | UnreadableSecret | MonitoringConfigError):
        return str(error)
    if is_schema_mismatch(error):
        return f"The database's tables are of another version: {reason(error)}. Run order-saga migrate."
    return described(error) if is_database_error(error) else None
