"""Many small orders that take long to refuse, beside a few good ones:
the good ones complete, and the process stays small."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest

from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from tests.faults.witness import PRODUCT, STOCK, order_of, stock_up
from tests.hostile.test_small_orders_stay_small import SMALL
from tests.integration.world import World
from tests.waiting import TIMEOUT_FACTOR
from tests.worker_forkserver.forkserver import Forkserver, Process

_MOST_MEGABYTES = 500
"""Of a consumer, whose code alone takes 200."""
_MOST_BYTES = 30_000
"""Of what the tables keep of an order of 3 KB."""
_KEPT = """
SELECT coalesce(avg(
        length(o.content::text) + length(o.reasons::text) + length(coalesce(o.failure::text, ''))
        + (SELECT coalesce(sum(
            length(coalesce(s.error::text, '')) + length(coalesce(s.result::text, ''))
        ), 0) FROM order_step s WHERE s.order_id = o.id)
    ), 0),
    max(o.lone_deaths), max(length(o.content::text))
FROM customer_order o WHERE o.outcome = 'rejected'
"""


def peak(process: Process) -> float:
    """The most memory that it has had so far, in MB; 0 once it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory of a process")
@pytest.mark.parametrize(
    ("bad", "good"), [(196, 4), pytest.param(980, 20, marks=pytest.mark.slow)], ids=["short", "full"]
)
def test_good_orders_complete_beside_many_that_take_long_to_refuse(
    saga: World, forkserver: Forkserver, unique: str, report_line: Any, bad: int, good: int
) -> None:
    stock_up(saga)
    kinds = itertools.cycle(SMALL.values())
    poison = [{**next(kinds), "id": f"BAD-{unique}-{i}"} for i in range(bad)]
    fine = [order_of("good", f"{unique}-{i}") for i in range(good)]
    every = bad // good
    mixed = [order for i in range(good) for order in (*poison[i * every : (i + 1) * every], fine[i])]
    intake.submit(mixed)
    consumer, most, end = forkserver.consumer(batch_size=1000), 0.0, time.monotonic() + 120 * TIMEOUT_FACTOR
    while consumer.running():
        most = max(most, peak(consumer))
        assert time.monotonic() < end, "the orders do not come to their ends"
        time.sleep(0.05)
    assert consumer.wait(1)["orders"] == bad + good

    ends = report.read([order["id"] for order in mixed])
    assert {ends[order["id"]].outcome for order in fine} == {Outcome.COMPLETED}
    assert {ends[order["id"]].outcome for order in poison} == {Outcome.REJECTED}
    assert {saga.charges(order["id"]) for order in fine} == {1}
    assert {saga.shipments(order["id"]) for order in fine} == {1}
    assert saga.stock(PRODUCT) == (STOCK - good, 0)
    assert sum(saga.charges(order["id"]) for order in poison[:: max(1, bad // 20)]) == 0
    kept, lone_deaths, longest = saga.sql(_KEPT)[0]
    report_line(
        f"{bad} bad orders: {most:.0f} MB at most, "
        f"{kept / 1000:.0f} KB kept of each ({longest} bytes the longest)"
    )
    assert lone_deaths == 0
    assert kept < _MOST_BYTES
    assert most < _MOST_MEGABYTES
