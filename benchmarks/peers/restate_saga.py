"""The six effects as a saga on Restate, as its documentation shows sagas: each effect is a durable step
(`ctx.run_typed`), a list of undo actions grows with the steps, and a terminal error runs it backwards.

Serve it with Hypercorn, as Restate's examples do: `restate_run.py` does, and measures it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import restate
from psycopg_pool import AsyncConnectionPool
from restate.exceptions import TerminalError

from benchmarks.peers import effects
from benchmarks.peers.effects import Order
from benchmarks.peers.timing import database_url

pool = AsyncConnectionPool(database_url(), kwargs={"autocommit": True}, max_size=20, open=False)
orders = restate.Service("Orders")


async def execute(statement: str, order: Order) -> None:
    """Executes the statement in a transaction of its own."""
    await pool.open()  # does nothing if it is open
    async with pool.connection() as connection:
        await connection.execute(effects.for_psycopg(statement), effects.values(order))


async def validate(order: Order) -> None:
    try:
        effects.refuse_if_invalid(order)
    except effects.Refused as error:
        raise TerminalError(str(error)) from error
    await execute(effects.VALIDATE, order)


async def reserve(order: Order) -> None:
    await execute(effects.RESERVE, order)


async def charge(order: Order) -> None:
    await execute(effects.CHARGE, order)


async def confirm(order: Order) -> None:
    await execute(effects.CONFIRM, order)


async def ship(order: Order) -> None:
    try:
        effects.refuse_if_unreachable(order)
    except effects.Refused as error:
        raise TerminalError(str(error)) from error
    await execute(effects.SHIP, order)


async def notify(order: Order) -> None:
    await execute(effects.NOTIFY, order)


async def release(order: Order) -> None:
    await execute(effects.RELEASE, order)


async def refund(order: Order) -> None:
    await execute(effects.REFUND, order)


@orders.handler()
async def process(ctx: restate.Context, order: Order) -> str:
    """Takes an order to its outcome."""
    compensations: list[Callable[[], Awaitable[None]]] = []
    try:
        await ctx.run_typed("validate", validate, order=order)
        compensations.append(lambda: ctx.run_typed("release", release, order=order))
        await ctx.run_typed("reserve", reserve, order=order)
        compensations.append(lambda: ctx.run_typed("refund", refund, order=order))
        await ctx.run_typed("charge", charge, order=order)
        await ctx.run_typed("confirm", confirm, order=order)
        await ctx.run_typed("ship", ship, order=order)
    except TerminalError:
        for compensation in reversed(compensations):
            await compensation()
        return "compensated"
    await ctx.run_typed("notify", notify, order=order)
    return "completed"


app = restate.app([orders])
