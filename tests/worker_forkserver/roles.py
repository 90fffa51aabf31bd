"""What a worker process does. Loaded once, by the forkserver; each role runs in a forked child."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio._backends._asyncio
import babel.dates
import babel.numbers
import fastapi
import jinja2
import prefect.client.orchestration
import prefect.context
import prefect.flow_engine
import prefect.task_engine
import prefect.utilities.visualization
import sqlalchemy.dialects.postgresql.psycopg
import time_machine

import saga.journal
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.settings import settings
from tests.crash import lanes


async def consumer(
    consumer_seconds: float, batch_size: int | None, deadly: tuple[str, str] | None = None
) -> Any:
    """`deadly`: an order, and the coroutine (`module:name`) that kills its process (SIGKILL) when it is
    called with that order."""
    if deadly is not None:
        kill_at(*deadly)
    return await process_pending_orders(consumer_seconds=consumer_seconds, batch_size=batch_size)


async def order(order: dict[str, Any]) -> Any:
    state = await process_order(order, return_state=True)  # type: ignore[call-overload]
    return state.name


async def recover() -> Any:
    return await housekeeping()


async def submit(orders: list[dict[str, Any]], threads: int) -> Any:
    """The same orders from so many threads at the same moment. Returns each receipt's status."""
    together, statuses = threading.Barrier(threads), []

    def send() -> None:
        together.wait(30)
        statuses.extend(receipt.status for receipt in intake.submit(orders))

    senders = [threading.Thread(target=send) for _ in range(threads)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    return statuses


LOADED = (anyio, babel, fastapi, jinja2, prefect, sqlalchemy)
"""What is loaded at its first use otherwise: two thirds of the time that a worker lives here."""

ROLES: dict[str, Callable[..., Awaitable[Any]]] = {
    "consumer": consumer,
    "order": order,
    "recover": recover,
    "submit": submit,
    "walk": lanes.walk,
    "declared": lanes.declared,
}


def play(job: dict[str, Any]) -> int:
    """Plays the role in this process. Returns its exit code."""
    try:
        output = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(job["env"])
        settings.cache_clear()
        prefect.context.refresh_global_settings_context()
        if job["stop_at"]:
            stop_at(job["stop_at"], signal.Signals(job["stop_by"]))
        if job["clock"]:
            move_clock(job["clock"])
        returned = asyncio.run(ROLES[job["role"]](**job["arguments"]))
        fresh = Path(job["result"] + ".new")
        fresh.write_text(json.dumps(returned, default=str))
        fresh.replace(job["result"])
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    else:
        return 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def find(place: str) -> tuple[Any, str]:
    """Returns the module or class that has the coroutine function `module:name`, and its name there. Raises
    AttributeError if there is none."""
    module, path = place.split(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    if not inspect.iscoroutinefunction(getattr(owner, name)):
        raise AttributeError(f"{place} is no coroutine function")
    return owner, name


def stop_at(place: str, by: signal.Signals) -> None:
    """Lets this process send itself the signal before or after the first call of a coroutine:
    `module:name:before`."""
    place, when = place.rsplit(":", 1)
    owner, name = find(place)
    call = getattr(owner, name)
    left = [None]

    def stop() -> None:
        if left:
            left.clear()
            os.kill(os.getpid(), by)

    @functools.wraps(call)
    async def stopping(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            stop()
        result = await call(*args, **kwargs)
        if when == "after":
            stop()
        return result

    setattr(owner, name, stopping)


def kill_at(order_id: str, place: str) -> None:
    """Lets this process kill itself at a call of a coroutine that has the order among those in one of its
    arguments."""
    owner, name = find(place)
    call = getattr(owner, name)

    @functools.wraps(call)
    async def killing(*args: Any, **kwargs: Any) -> Any:
        for arg in args:
            if isinstance(arg, list | tuple) and any(getattr(each, "id", None) == order_id for each in arg):
                os.kill(os.getpid(), signal.SIGKILL)
        return await call(*args, **kwargs)

    setattr(owner, name, killing)


def move_clock(offsets: list[int]) -> None:
    """Lets this process's clock be wrong by so many seconds,
    in turn: by the next ones whenever it has written to the journal."""
    jumps, now = itertools.cycle(offsets), [time_machine.travel(time.time(), tick=True)]

    def jump() -> None:
        now[0].stop()
        now[0] = time_machine.travel(time.time() + next(jumps), tick=True)
        now[0].start()
        print(f"the clock says {datetime.now(UTC):%Y-%m-%d}")

    now[0].start()
    jump()
    write = saga.journal.write

    @functools.wraps(write)
    async def writing(*args: Any, **kwargs: Any) -> Any:
        result = await write(*args, **kwargs)
        jump()
        return result

    saga.journal.write = writing  # type: ignore[assignment]
