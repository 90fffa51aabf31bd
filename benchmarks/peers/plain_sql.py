"""The six effects without orchestration: each in a transaction of its own, for one order after the other.

Nothing here continues what a crash interrupted: it is what orchestration is measured against.
"""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import effects
from benchmarks.peers.effects import Order
from benchmarks.peers.timing import Options, database_url, measure, parse, show


async def main(options: Options) -> dict[str, Any]:
    number = options.at_once
    autocommit = {"autocommit": True}
    async with AsyncConnectionPool(
        database_url(), kwargs=autocommit, min_size=number, max_size=number
    ) as pool:

        async def execute(statement: str, order: Order) -> None:
            async with pool.connection() as connection:
                await connection.execute(effects.for_psycopg(statement), effects.values(order))

        async def run(order: Order) -> str:
            undo: list[str] = []
            try:
                effects.refuse_if_invalid(order)
                await execute(effects.VALIDATE, order)
                undo.append(effects.RELEASE)
                await execute(effects.RESERVE, order)
                undo.append(effects.REFUND)
                await execute(effects.CHARGE, order)
                await execute(effects.CONFIRM, order)
                effects.refuse_if_unreachable(order)
                await execute(effects.SHIP, order)
            except effects.Refused:
                for statement in reversed(undo):
                    await execute(statement, order)
                return "compensated"
            await execute(effects.NOTIFY, order)
            return "completed"

        return await measure(run, options)


if __name__ == "__main__":
    show(asyncio.run(main(parse())))
