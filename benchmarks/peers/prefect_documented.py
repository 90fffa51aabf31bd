"""The six effects as Prefect's documentation shows a flow: a task per step, with retries; sagas with try and
except."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow, task
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import effects
from benchmarks.peers.effects import Order
from benchmarks.peers.timing import Options, database_url, measure, parse, show

pool = AsyncConnectionPool(database_url(), kwargs={"autocommit": True}, open=False)


async def execute(statement: str, order: Order) -> None:
    """Executes the statement in a transaction of its own."""
    async with pool.connection() as connection:
        await connection.execute(effects.for_psycopg(statement), effects.values(order))


def _retry(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a retry can help: not after a refusal."""
    return not isinstance(state.result(raise_on_failure=False), effects.Refused)


@task(retries=3, retry_condition_fn=_retry)
async def validate(order: Order) -> None:
    effects.refuse_if_invalid(order)
    await execute(effects.VALIDATE, order)


@task(retries=3)
async def reserve(order: Order) -> None:
    await execute(effects.RESERVE, order)


@task(retries=3)
async def charge(order: Order) -> None:
    await execute(effects.CHARGE, order)


@task(retries=3)
async def confirm(order: Order) -> None:
    await execute(effects.CONFIRM, order)


@task(retries=3, retry_condition_fn=_retry)
async def ship(order: Order) -> None:
    effects.refuse_if_unreachable(order)
    await execute(effects.SHIP, order)


@task(retries=3)
async def notify(order: Order) -> None:
    await execute(effects.NOTIFY, order)


@task(retries=3)
async def release(order: Order) -> None:
    await execute(effects.RELEASE, order)


@task(retries=3)
async def refund(order: Order) -> None:
    await execute(effects.REFUND, order)


@flow
async def process(order: Order) -> str:
    """Takes an order to its outcome."""
    undo: list[Any] = []
    try:
        await validate(order)
        undo.append(release)
        await reserve(order)
        undo.append(refund)
        await charge(order)
        await confirm(order)
        await ship(order)
    except effects.Refused:
        for compensation in reversed(undo):
            await compensation(order)
        return "compensated"
    await notify(order)
    return "completed"


async def main(options: Options) -> dict[str, Any]:
    async with pool:
        return await measure(process, options)


if __name__ == "__main__":
    show(asyncio.run(main(parse())))
