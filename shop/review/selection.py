"""Selects orders under manual review."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from sqlalchemy import text

from saga.database import sync_engine
from shop.monitoring.window import parse
from shop.review.attention import ReviewCase
from shop.settings import settings

_SELECT = text(
    """
    SELECT a.order_id, a.since, a.step, a.currency, a.amount_at_risk,
        a.last_error, a.error_code, a.retries, a.next_retry_at, o.outcome IS NULL AS being_retried
    FROM attention a JOIN customer_order o ON o.id = a.order_id
    WHERE (CAST(:ids AS text[]) IS NULL AND a.resolved_at IS NULL OR a.order_id = ANY(CAST(:ids AS text[])))
      AND (CAST(:step AS text) IS NULL OR a.step = :step)
      AND (CAST(:code AS text) IS NULL OR a.error_code = :code)
      AND (CAST(:currency AS text) IS NULL OR a.currency = :currency)
      AND (CAST(:held AS boolean) IS NULL OR (a.next_retry_at IS NULL) = :held)
      AND (CAST(:older_than AS interval) IS NULL OR a.since < now() - CAST(:older_than AS interval))
      AND (CAST(:at_least AS numeric) IS NULL OR a.amount_at_risk >= :at_least)
      AND (CAST(:at_most AS numeric) IS NULL OR a.amount_at_risk <= :at_most)
    ORDER BY a.since, a.order_id
    """
)


def _age(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        ago = parse(given).ago
    except ValueError:
        ago = None
    if ago is None:
        raise ValueError("an age is a number and a unit, such as 30m, 24h or 7d")
    return ago


class Selection(BaseModel):
    """What the selected orders have in common. None: any value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str | None = None
    """The step whose compensation failed."""
    code: str | None = None
    """The last error's code, such as `refund_refused`."""
    currency: Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")] | None = None
    held: bool | None = None
    """Whether nothing is retried until a person requests it."""
    older_than: Annotated[timedelta, BeforeValidator(_age)] | None = None
    at_least: Annotated[Decimal, Field(ge=0)] | None = None
    """The minimum at risk, in the order's currency."""
    at_most: Annotated[Decimal, Field(ge=0)] | None = None


def select_sync(selection: Selection, ids: Sequence[str] | None = None) -> list[ReviewCase]:
    """Returns the matching orders under manual review, the oldest first. With `ids`: among these, also
    those that were resolved since."""
    parameters = {**selection.model_dump(), "ids": None if ids is None else list(ids)}
    with sync_engine(settings().database_url).connect() as connection:
        return [ReviewCase(**row) for row in connection.execute(_SELECT, parameters).mappings()]
