"""What flow runs have in common: their names, fields of their forms, who started them, their final states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from shop.orders.names import run_name
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.runtime.times import local
from shop.values.money import show

_LIMIT_SECONDS = 5
"""Limits each request to the Prefect server, in seconds."""
NAMES = {
    Outcome.COMPLETED: "Completed",
    Outcome.REJECTED: "Rejected",
    Outcome.OUT_OF_STOCK: "OutOfStock",
    Outcome.COMPENSATED: "Compensated",
    Outcome.NEEDS_ATTENTION: "NeedsAttention",
}
"""Names of the final states, by the order's outcome."""

OrderId = Annotated[str, Field(min_length=1, max_length=200)]
Reference = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(min_length=1, max_length=300)]
OptionalWords = Annotated[str | None, Field(max_length=300)]


def about_order(what: str) -> Callable[[], str]:
    """Returns a `flow_run_name` for runs with the parameter `order_id`."""
    return lambda: run_name(what, {"id": flow_run.parameters.get("order_id")})


def timed(what: str) -> Callable[[], str]:
    """Returns a `flow_run_name` for runs not about one order, such as `purge at 09:30:00` (in the shop's time
    zone)."""

    def name() -> str:
        return f"{what} at {local(datetime.now(UTC)):%H:%M:%S}"

    return name


@asynccontextmanager
async def named(name: str) -> AsyncIterator[None]:
    """Gives this flow run a name while its body runs.

    A `flow_run_name` costs more than that: before the run begins, Prefect builds a second HTTP client for it,
    with a TLS context, reads a setting from its server, and waits for the new name.
    """
    naming = asyncio.create_task(_set_name(name), name="name-run")
    try:
        yield
    finally:
        await naming  # has ended long before, if the server answers


async def _set_name(name: str) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    context.flow_run.name = name  # in the lines that the run logs from now on
    try:
        async with asyncio.timeout(_LIMIT_SECONDS), get_client() as client:
            await client.set_flow_run_name(context.flow_run.id, name)
    except Exception as error:  # noqa: BLE001  (a name does not affect the order)
        get_logger("orders").warning("naming the run failed (%s)", type(error).__name__)


async def started_by() -> str:
    """Returns the run and its creator according to Prefect. A self-hosted server distinguishes automations
    but not people, who share one password."""
    run = f"Prefect run {flow_run.id}"
    try:
        async with asyncio.timeout(_LIMIT_SECONDS), get_client() as client:
            creator = (await client.read_flow_run(UUID(flow_run.id))).created_by
    except Exception as error:  # noqa: BLE001  (an unavailable Prefect must not lose a decision)
        return f"{run}; reading its creator failed ({type(error).__name__})"
    if creator is None:
        return f"{run}; Prefect has no creator"
    return f"{run}, created by {str(creator.type or 'unknown').lower()} {creator.display_value or creator.id}"


def state_of(known: OrderOutcome) -> State[OrderOutcome]:
    """Returns a completed state with the outcome's name for an order that was handled as designed, or that
    waits for a transfer, and a failed one for an order that needs a person."""
    if known.outcome is None and known.awaits_money:
        message = f"{known.order_id} waits for its money; consumers continue with it when that is recorded"
        return Completed(name="AwaitingPayment", message=message, data=known)
    if known.outcome is None:
        raise ValueError(f"order {known.order_id} has no outcome yet")
    make = Failed if known.outcome is Outcome.NEEDS_ATTENTION else Completed
    return make(name=NAMES[known.outcome], message=_message(known), data=known)


def _message(known: OrderOutcome) -> str:
    if known.outcome is Outcome.COMPLETED:
        return f"{known.order_id}: {show(known.amount_charged, known.currency)} charged"
    parts = [f"{known.order_id}: {known.failing_step}: {'; '.join(known.reasons)}"]
    parts += [f"{undone.compensation}: {undone.status}" for undone in known.undone]
    if known.amount_at_risk:
        parts.append(f"{show(known.amount_at_risk, known.currency)} at risk")
    return " | ".join(parts)[:1000]
