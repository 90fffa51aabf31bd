"""The six effects as a saga on DBOS, as its documentation shows workflows: each effect is a step, which
DBOS records; a refusal runs the compensations in `except`.

A step may run again after a crash, which the statements allow. With transactions of a datasource, which
commit with DBOS's record, an order takes 1.6 times as long.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import effects
from benchmarks.peers.effects import Order
from benchmarks.peers.timing import Options, database_url, measure, parse, show

config: DBOSConfig = {
    "name": "orders",
    "executor_id": str(os.getpid()),
    "system_database_url": os.environ["PEERS_SYSTEM_DATABASE_URL"],
    "log_level": "WARNING",
    "run_admin_server": False,
}
DBOS(config=config)
pool = AsyncConnectionPool(database_url(), kwargs={"autocommit": True}, min_size=20, max_size=20, open=False)


async def execute(statement: str, order: Order) -> None:
    """Executes the statement in a transaction of its own."""
    async with pool.connection() as connection:
        await connection.execute(effects.for_psycopg(statement), effects.values(order))


@DBOS.step()
async def validate(order: Order) -> None:
    effects.refuse_if_invalid(order)
    await execute(effects.VALIDATE, order)


@DBOS.step()
async def reserve(order: Order) -> None:
    await execute(effects.RESERVE, order)


@DBOS.step()
async def charge(order: Order) -> None:
    await execute(effects.CHARGE, order)


@DBOS.step()
async def confirm(order: Order) -> None:
    await execute(effects.CONFIRM, order)


@DBOS.step()
async def ship(order: Order) -> None:
    effects.refuse_if_unreachable(order)
    await execute(effects.SHIP, order)


@DBOS.step()
async def notify(order: Order) -> None:
    await execute(effects.NOTIFY, order)


@DBOS.step()
async def release(order: Order) -> None:
    await execute(effects.RELEASE, order)


@DBOS.step()
async def refund(order: Order) -> None:
    await execute(effects.REFUND, order)


@DBOS.workflow()
async def process(order: Order) -> str:
    """Takes an order to its outcome."""
    undo: list[Callable[[Order], Awaitable[None]]] = []
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


async def process_once(order: Order) -> str:
    """Runs the workflow under the order's id: started again, it would not run twice."""
    with SetWorkflowID(order["id"]):
        outcome: str = await process(order)
        return outcome


async def main(options: Options) -> dict[str, Any]:
    async with pool:
        return await measure(process_once, options)


if __name__ == "__main__":
    given = parse()
    DBOS.launch()
    try:
        show(asyncio.run(main(given)))
    finally:
        DBOS.destroy()
