"""The six effects as a saga on DBOS, as its documentation shows workflows: each effect is a transaction of a
datasource, which commits with DBOS's record of the step; a refusal runs the compensations in `except`.

Workflows run in threads, as DBOS runs synchronous ones. The same with asyncio takes twice the processor time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID, SQLAlchemyDatasource
from sqlalchemy import text

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
ds = SQLAlchemyDatasource.create(database_url(), engine_kwargs={"pool_size": 20})


def execute(statement: str, order: Order) -> None:
    """Executes the statement in the step's transaction."""
    ds.sql_session().execute(text(statement), effects.values(order))


@ds.transaction(isolation_level="READ COMMITTED")
def validate(order: Order) -> None:
    effects.refuse_if_invalid(order)
    execute(effects.VALIDATE, order)


@ds.transaction(isolation_level="READ COMMITTED")
def reserve(order: Order) -> None:
    execute(effects.RESERVE, order)


@ds.transaction(isolation_level="READ COMMITTED")
def charge(order: Order) -> None:
    execute(effects.CHARGE, order)


@ds.transaction(isolation_level="READ COMMITTED")
def confirm(order: Order) -> None:
    execute(effects.CONFIRM, order)


@ds.transaction(isolation_level="READ COMMITTED")
def ship(order: Order) -> None:
    effects.refuse_if_unreachable(order)
    execute(effects.SHIP, order)


@ds.transaction(isolation_level="READ COMMITTED")
def notify(order: Order) -> None:
    execute(effects.NOTIFY, order)


@ds.transaction(isolation_level="READ COMMITTED")
def release(order: Order) -> None:
    execute(effects.RELEASE, order)


@ds.transaction(isolation_level="READ COMMITTED")
def refund(order: Order) -> None:
    execute(effects.REFUND, order)


@DBOS.workflow()
def process(order: Order) -> str:
    """Takes an order to its outcome."""
    undo: list[Callable[[Order], None]] = []
    try:
        validate(order)
        undo.append(release)
        reserve(order)
        undo.append(refund)
        charge(order)
        confirm(order)
        ship(order)
    except effects.Refused:
        for compensation in reversed(undo):
            compensation(order)
        return "compensated"
    notify(order)
    return "completed"


def process_once(order: Order) -> str:
    """Runs the workflow under the order's id: started again, it would not run twice."""
    with SetWorkflowID(order["id"]):
        outcome: str = process(order)
        return outcome


async def main(options: Options) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(options.at_once) as threads:

        async def run(order: Order) -> str:
            return await loop.run_in_executor(threads, process_once, order)

        return await measure(run, options)


if __name__ == "__main__":
    given = parse()
    DBOS.launch()
    try:
        show(asyncio.run(main(given)))
    finally:
        DBOS.destroy()
