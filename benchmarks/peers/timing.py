"""Times orders, one at a time or many at once, and prints the result as a line of JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.followers import done, follow, followers
from benchmarks.peers.effects import Order, create_tables, new_orders, require_compensated, require_done

Run = Callable[[Order], Awaitable[str]]
"""Takes one order to its outcome: `completed` or `compensated`."""

WARM_UP = 20
"""How many orders come before those that count."""


def database_url() -> str:
    """Returns the database of the effects' tables."""
    return os.environ["PEERS_DATABASE_URL"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    number: int
    """How many orders."""
    at_once: int
    """How many of them are in progress at any time."""
    processes: int
    """How many processes share them."""
    follower: bool
    """This is one of the other processes."""


async def measure(run: Run, options: Options) -> dict[str, Any]:
    """Measures orders after a warm-up that is not counted. Raises RuntimeError unless each order was charged,
    shipped and notified once; and unless an order that the carrier refuses is refunded and its stock
    released."""
    await _check_compensation(run)
    at_once = options.at_once // options.processes
    await _work(run, new_orders(WARM_UP), at_once)
    orders = new_orders(options.number // options.processes)
    if options.follower:
        await asyncio.to_thread(follow)
        await _work(run, orders, at_once)
        done()
        require_done(database_url(), orders)
        return {}
    with followers([*sys.orig_argv, "--follower"], options.processes - 1) as others:
        begin = time.perf_counter()
        others.begin()
        seconds = await _work(run, orders, at_once)
        await asyncio.to_thread(others.wait)
        elapsed = time.perf_counter() - begin
    require_done(database_url(), orders)
    if at_once == 1:
        return {"orders": options.number, "p50_ms": statistics.median(seconds) * 1000}
    return {"orders": options.number, "orders_per_second": options.number / elapsed}


def parse() -> Options:
    """Reads the command line. Creates the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["alone", "at_once"])
    parser.add_argument("number", type=int)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--follower", action="store_true")
    given = parser.parse_args()
    create_tables(database_url())
    at_once = given.at_once if given.kind == "at_once" else 1
    return Options(given.number, at_once, given.processes, given.follower)


def show(measured: dict[str, Any]) -> None:
    """Prints the result."""
    sys.stdout.write(json.dumps(measured) + "\n")


async def _check_compensation(run: Run) -> None:
    refused = new_orders(2, country="XX")
    for order in refused:
        if (outcome := await run(order)) != "compensated":
            raise RuntimeError(f"an order that the carrier refuses is {outcome}")
    require_compensated(database_url(), refused)


async def _work(run: Run, orders: list[Order], at_once: int) -> list[float]:
    waiting, seconds = iter(orders), []

    async def client() -> None:
        for order in waiting:
            begin = time.perf_counter()
            if (outcome := await run(order)) != "completed":
                raise RuntimeError(f"an order is {outcome}")
            seconds.append(time.perf_counter() - begin)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return seconds
