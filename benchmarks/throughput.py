"""Measures orders per second and latencies of both lanes and of intake, beside the same SQL without
orchestration and Prefect's own empty runs, in one run: `make bench`.

    python -m benchmarks.throughput            # tables
    python -m benchmarks.throughput --json     # the same as JSON
    python -m benchmarks.throughput --quick    # few orders: checks that it works, without meaningful numbers
    python -m benchmarks.throughput --only pending

Machines are shared and noisy: compare the lines of one run with each other. Every line is measured in its own
process, like a worker's run. PostgreSQL, the Prefect server and the sandbox gateway are those of `make run`,
in a temporary folder.
"""

from __future__ import annotations

import sys

from benchmarks.command import run
from benchmarks.suite import ORDERS_PER_SECOND, P50, Claim, Column, Comparison, Line, Suite

SANDBOX = ("--gateway", "sandbox")

SUBMIT = Line("submit_orders", "submit", 10_000, 500)
PROCESS_ORDER = Line("process_order", "own_runs", 20, 3, runs=3)
PROCESS_ORDER_HTTP = Line("process_order over HTTP", "own_runs", 10, 2, SANDBOX)
ALONE = Line("one order alone", "alone", 60, 5, runs=3)
LANE = Line("batch lane", "pending", 2_000, 200, runs=3)
LANE_HTTP = Line("batch lane over HTTP", "pending", 1_000, 100, SANDBOX)
SLOW = ("--gateway", "slow")
LANES = tuple(
    Line(f"{consumers} consumers", kind, 8_000, 300)
    for consumers, kind in ((1, "pending"), (2, "pending_two"), (4, "pending_four"))
)
SLOW_LANES = tuple(
    Line(f"{consumers} consumers, 0.9 s a charge", kind, 800, 40, SLOW)
    for consumers, kind in ((1, "pending"), (2, "pending_two"), (4, "pending_four"))
)
FLOOR = Line("floor: without Prefect", "floor", 2_000, 200, runs=3)
IDLE = Line("workers at rest", "idle", 120, 0, module="benchmarks.idle")
MAIL = Line("a mail, into the Maildir", "mail", 2_000, 20, module="benchmarks.documents")
LABEL_PDF = Line("a label as PDF", "label_pdf", 500, 20, module="benchmarks.documents")
LABEL_ZPL = Line("a label as ZPL", "label_zpl", 2_000, 20, module="benchmarks.documents")
EMPTY_FLOW = Line("Prefect: empty flow", "empty_flow", 40, 3, runs=3)
EMPTY_TASKS = Line("Prefect: six empty tasks", "empty_tasks", 40, 3, runs=3)

SUITE = Suite(
    name="bench",
    lines=(
        SUBMIT,
        PROCESS_ORDER,
        PROCESS_ORDER_HTTP,
        ALONE,
        LANE,
        LANE_HTTP,
        FLOOR,
        *LANES,
        *SLOW_LANES,
        EMPTY_FLOW,
        EMPTY_TASKS,
        MAIL,
        LABEL_PDF,
        LABEL_ZPL,
        IDLE,
    ),
    columns=(
        Column("orders/s", ORDERS_PER_SECOND),
        Column("/s, to\nlast mail", "orders_per_second_mailed"),
        Column("p50 ms", P50),
        Column("MB", "peak_memory_mb"),
    ),
    comparisons=(
        Comparison("orders/s\n÷ floor", FLOOR),
        Comparison("p50 ÷\nempty flow", EMPTY_FLOW, P50),
    ),
    claims=(
        Claim("batch lane ÷ process_order", LANE, ORDERS_PER_SECOND, PROCESS_ORDER, at_least=200),
        Claim("batch lane ÷ floor", LANE, ORDERS_PER_SECOND, FLOOR, at_least=0.7),
        Claim("batch lane: to the last mail ÷ outcome", LANE, "mailed_share", at_least=0.2),
        Claim("one order alone: p50 ÷ empty flow", ALONE, P50, EMPTY_FLOW, at_most=1),
        Claim("process_order: p50 ÷ six empty tasks", PROCESS_ORDER, P50, EMPTY_TASKS, at_most=1.5),
        Claim(
            "submit_orders ÷ batch lane",
            SUBMIT,
            ORDERS_PER_SECOND,
            LANE,
            at_least=2,
        ),
        Claim(
            "2 consumers ÷ 1, 0.9 s a charge", SLOW_LANES[1], ORDERS_PER_SECOND, SLOW_LANES[0], at_least=1.8
        ),
        Claim(
            "4 consumers ÷ 1, 0.9 s a charge", SLOW_LANES[2], ORDERS_PER_SECOND, SLOW_LANES[0], at_least=3.4
        ),
        Claim(
            "lane over HTTP: orders/s of a core",
            LANE_HTTP,
            "orders_per_cpu_second",
            at_least=1_000,
        ),
        Claim(
            "the same ÷ batch lane",
            LANE_HTTP,
            "orders_per_cpu_second",
            LANE,
            at_least=0.4,
        ),
        Claim("the sandbox gateway's CPU for an order, ms", LANE_HTTP, "gateway_cpu_ms", at_most=1),
        Claim("a consumer's peak memory, MB", LANE, "peak_memory_mb", at_most=300),
        Claim("worker and its runs at rest, cores", IDLE, "cores", at_most=0.05),
    ),
)


if __name__ == "__main__":
    sys.exit(run(SUITE))
