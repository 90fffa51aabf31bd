"""The measurements of the lines in `throughput.py`. Each runs in its own process, like a worker's run, and
prints its result as a line of JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import text

from benchmarks import prefect_alone
from benchmarks.cpu import Cpu
from benchmarks.followers import follow, followers
from benchmarks.gateway import MemoryGateway
from benchmarks.suite import Measured
from deployments.environment import environment
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.claims import claim
from saga.database import sync_engine, transaction
from saga.definition import Step
from saga.finish import finish
from saga.lease import lease
from saga.loop import execution_of, run_steps
from saga.shares import share
from shop.inventory.catalogue import load_catalogue
from shop.orders import intake, report
from shop.orders.order import EXAMPLE, OrderInstance
from shop.orders.store import ORDERS
from shop.payments.gateways import PAYMENT_GATEWAY, configured_guard, use
from shop.payments.ownership import OwnPayments
from shop.runtime.garbage import reduced_garbage_collection
from shop.settings import settings

_SLOW_SECONDS = 0.9
"""How long the slow gateway takes for a charge."""
PRODUCTS = [f"BENCH-{i}" for i in range(20)]


def orders(number: int) -> list[dict[str, Any]]:
    """Returns orders of two items each, with new ids, distributed over the products."""
    stamp = uuid.uuid4().hex[:10]
    return [
        {
            **EXAMPLE,
            "id": f"{stamp}-no{i}",  # with letters: digits alone may look like a card number, and are refused
            "items": [
                {
                    "product_id": PRODUCTS[i % len(PRODUCTS)],
                    "quantity": 1,
                    "price": "999.99",
                    "name": "Laptop",
                },
                {
                    "product_id": PRODUCTS[(i + 7) % len(PRODUCTS)],
                    "quantity": 2,
                    "price": "29.99",
                    "name": "Mouse",
                },
            ],
        }
        for i in range(number)
    ]


async def pending(number: int, *, consumers: int = 1) -> Measured:
    """Measures consumers with `number` waiting orders: from the first claim to the last outcome, and to the
    last mail. One consumer runs in this process, and each other one in its own."""
    command = [sys.executable, "-m", "benchmarks.lanes", "consumer", "0", *sys.argv[3:]]
    with environment({"MOST_CONSUMERS": str(consumers)}), followers(command, consumers - 1) as others:
        settings.cache_clear()
        await _warm_up()
        ids = _submit(number)
        others.begin()
        cpu = Cpu()
        consumer = asyncio.create_task(process_pending_orders(consumer_seconds=3600))
        await _until(lambda: _left("customer_order WHERE outcome IS NULL") == 0)
        used = cpu.per_order(number) if consumers == 1 else {}
        await _until(lambda: _left("outbox WHERE sent_at IS NULL") == 0)
        await _stop(consumer)
    return {**_lane(ids), **used}


async def consumer(_number: int) -> Measured:
    """Runs one of the other consumers of `pending`, until its input ends."""
    await _warm_up()
    await asyncio.to_thread(follow)
    running = asyncio.create_task(process_pending_orders(consumer_seconds=3600))
    await asyncio.to_thread(sys.stdin.read)
    await _stop(running)
    return {}


async def floor(number: int) -> Measured:
    """Measures the same steps and SQL in the same batches without Prefect: the lower limit of the costs."""
    await _warm_up()
    ids = _submit(number)
    cpu = Cpu()
    with reduced_garbage_collection():
        async with (
            lease(ORDERS) as mine,
            share(PAYMENT_GATEWAY, ORDERS, mine, wanted=settings().payments.concurrency),
        ):
            running: set[asyncio.Task[None]] = set()
            while True:
                async with transaction() as tx:
                    batch = await claim(tx, ORDERS, mine, most=settings().batch_size)
                if not batch:
                    break
                running.add(asyncio.create_task(_straight(batch)))
                if len(running) >= settings().batches_under_way:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*running)
    used = cpu.per_order(number)
    return {**_lane(ids), **used}


async def own_runs(number: int) -> Measured:
    """Measures `process_order` in this process, one run after the other."""
    await _warm_up()
    batch = iter(orders(number + 1))
    return await _one_by_one(number, lambda: process_order(next(batch), return_state=True))


async def empty_flow(number: int) -> Measured:
    """Measures a flow that does nothing, in this process, one run after the other."""
    return await _one_by_one(number, prefect_alone.empty_flow)


async def empty_tasks(number: int) -> Measured:
    """Measures a flow of six tasks that do nothing, in this process, one run after the other."""
    return await _one_by_one(number, prefect_alone.six_empty_tasks)


async def alone(number: int) -> Measured:
    """Measures one order at a time with a running consumer: from before its submission until its outcome is
    known."""
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=3600))
    first = _submit(3)
    await _until(lambda: report.count_ended(first) == len(first))
    from deployments.trigger import run_order

    seconds = []
    for order in orders(number):
        begin = time.perf_counter()
        await asyncio.to_thread(run_order, order)
        seconds.append(time.perf_counter() - begin)
    await _stop(consumer)
    return {"orders": number, **_percentiles(seconds), "peak_memory_mb": _peak()}


async def submit(number: int) -> Measured:
    """Measures `submit_orders`: one order at a time, then `number` orders at once."""
    from deployments.trigger import submit_orders

    seconds = []
    for order in orders(60):
        begin = time.perf_counter()
        submit_orders([order])
        seconds.append(time.perf_counter() - begin)
    many = orders(number)
    cpu, begin = Cpu(), time.perf_counter()
    submit_orders(many)
    return {
        "orders": number,
        "orders_per_second": number / (time.perf_counter() - begin),
        **cpu.per_order(number),
        **_percentiles(seconds[10:]),
    }


KINDS: dict[str, Callable[[int], Awaitable[Measured]]] = {
    "pending": pending,
    "pending_two": partial(pending, consumers=2),
    "pending_four": partial(pending, consumers=4),
    "consumer": consumer,
    "floor": floor,
    "own_runs": own_runs,
    "empty_flow": empty_flow,
    "empty_tasks": empty_tasks,
    "alone": alone,
    "submit": submit,
}


async def _one_by_one(number: int, run: Callable[[], Awaitable[Any]]) -> Measured:
    """Measures runs one after the other, after a first one that is not counted."""
    await run()
    seconds = []
    for _ in range(number):
        begin = time.perf_counter()
        await run()
        seconds.append(time.perf_counter() - begin)
    return {
        "orders": number,
        "orders_per_second": number / sum(seconds),
        **_percentiles(seconds),
        "peak_memory_mb": _peak(),
    }


async def _straight(batch: Sequence[OrderInstance]) -> None:
    await finish(await run_steps(ORDER_SAGA, batch, _run_step), ORDER_SAGA)


async def _run_step(
    step: Step, todo: list[OrderInstance], _others: list[OrderInstance]
) -> Sequence[OrderInstance]:
    task: Any = step.task
    work = execution_of(ORDER_SAGA, step, todo)
    await task.fn(work)  # the task's own function, without Prefect around it
    if len(work.done) != len(todo):
        raise RuntimeError(f"{step.name} failed for {len(work.failed)} orders")
    return ()


async def _warm_up() -> None:
    _submit(3)
    await process_pending_orders(consumer_seconds=0)


def _submit(number: int) -> list[str]:
    batch = orders(number)
    intake.submit(batch)
    return [order["id"] for order in batch]


async def _until(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > end:
            raise TimeoutError(f"the orders did not end within {seconds:g} s")
        await asyncio.sleep(0.2)


async def _stop(consumer: asyncio.Task[Any]) -> None:
    consumer.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(consumer, return_exceptions=True)


def _left(rows: str) -> int:
    """Counts rows. Runs during the measurement, so it has to be cheap."""
    with sync_engine(settings().database_url).connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {rows}")).scalar_one())


def _lane(ids: list[str]) -> Measured:
    done, seconds, p50, p99 = _one(
        "SELECT count(*) FILTER (WHERE outcome = 'completed'), "
        "extract(epoch FROM max(finished_at) - min(started_at))::float, "
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at))::float, "
        "percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at))::float "
        "FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))",
        ids,
    )
    if done != len(ids):
        why = _one(
            "SELECT json_agg(DISTINCT jsonb_build_array(outcome, status, failure, reasons)) "
            "FROM customer_order "
            "WHERE outcome IS DISTINCT FROM 'completed' AND id = ANY(CAST(:ids AS text[]))",
            ids,
        )[0]
        raise RuntimeError(f"{len(ids) - done} of {len(ids)} orders did not complete: {why}")
    mailed = _one(
        "SELECT extract(epoch FROM max(m.sent_at) - min(o.started_at))::float FROM customer_order o "
        "JOIN outbox m ON m.order_id = o.id WHERE o.id = ANY(CAST(:ids AS text[]))",
        ids,
    )[0]
    return {
        "orders": len(ids),
        "orders_per_second": len(ids) / seconds,
        "in_batch_p50_ms": p50 * 1000,
        "in_batch_p99_ms": p99 * 1000,
        "orders_per_second_mailed": len(ids) / mailed if mailed else None,
        "mailed_share": seconds / mailed if mailed else None,
        "peak_memory_mb": _peak(),
    }


def _one(statement: str, ids: list[str]) -> Any:
    with sync_engine(settings().database_url).connect() as connection:
        return connection.execute(text(statement), {"ids": ids}).one()


def _percentiles(seconds: list[float]) -> Measured:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


def _peak() -> float:
    """Returns the peak memory of this process in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


async def _main(kind: str, number: int, gateway: str) -> Measured:
    if gateway == "in-process":
        use(OwnPayments(MemoryGateway()))
    elif gateway == "slow":
        guard = configured_guard(lambda _: None)  # limits the concurrent calls
        use(OwnPayments(MemoryGateway(seconds=_SLOW_SECONDS), guard))
    return await KINDS[kind](number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("number", type=int)
    parser.add_argument("--gateway", choices=["in-process", "slow", "sandbox"], default="in-process")
    options = parser.parse_args()
    load_catalogue(settings().database_url, {product: (product, 10**9) for product in PRODUCTS})
    sys.stdout.write(json.dumps(asyncio.run(_main(options.kind, options.number, options.gateway))) + "\n")
