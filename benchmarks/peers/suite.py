"""Our two lanes beside other ways to run the same six effects, as lines of one run."""

from __future__ import annotations

from functools import partial

from benchmarks.suite import ORDERS_PER_SECOND, P50, Claim, Column, Comparison, Line, Suite
from benchmarks.throughput import ALONE, EMPTY_FLOW, EMPTY_TASKS, PROCESS_ORDER
from deployments.local.stack import HOME

PYTHON = str(HOME / ".peers" / "bin" / "python")
"""The interpreter with DBOS and Restate, which `make bench-peers` installs."""
RESTATE = HOME / ".peers" / "node_modules" / "@restatedev"
"""The packages of Restate's server."""
TWO = ("--processes", "2")
_dbos = partial(Line, runs=3, module="benchmarks.peers.dbos_saga", python=PYTHON)
_restate = partial(Line, runs=3, module="benchmarks.peers.restate_run", python=PYTHON)
_plain = partial(Line, runs=3, module="benchmarks.peers.plain_sql")
_set_based = partial(Line, runs=3, module="benchmarks.peers.set_based")
_prefect = partial(Line, runs=3, module="benchmarks.peers.prefect_documented")

DBOS_ALONE = _dbos("DBOS, one at a time", "alone", 200, 10)
DBOS_20 = _dbos("DBOS, 20 at once", "at_once", 1_000, 60)
DBOS_TWO = _dbos("DBOS, 20, 2 processes", "at_once", 1_000, 60, TWO)
RESTATE_ALONE = _restate("Restate, one at a time", "alone", 200, 10)
RESTATE_20 = _restate("Restate, 20 at once", "at_once", 1_000, 60)
RESTATE_TWO = _restate("Restate, 20, 2 processes", "at_once", 1_000, 60, TWO)
PLAIN_ALONE = _plain("plain SQL, one at a time", "alone", 500, 10)
PLAIN_20 = _plain("plain SQL, 20 at once", "at_once", 3_000, 60)
SET_BASED = _set_based("set-based SQL (limit)", "at_once", 20_000, 1_000)
PREFECT = _prefect("Prefect, a task a step", "alone", 20, 2)
LANE = Line("batch lane", "pending", 4_000, 200, runs=3)
LANE_TWO = Line("batch lane, 2 processes", "pending_two", 4_000, 200, runs=3)

SUITE = Suite(
    name="bench-peers",
    lines=(
        DBOS_ALONE,
        DBOS_20,
        DBOS_TWO,
        RESTATE_ALONE,
        RESTATE_20,
        RESTATE_TWO,
        PLAIN_ALONE,
        PLAIN_20,
        SET_BASED,
        PREFECT,
        EMPTY_FLOW,
        EMPTY_TASKS,
        PROCESS_ORDER,
        ALONE,
        LANE,
        LANE_TWO,
    ),
    columns=(Column("orders/s", ORDERS_PER_SECOND), Column("p50 ms", P50)),
    comparisons=(
        Comparison("÷ DBOS", DBOS_20),
        Comparison("÷ limit", SET_BASED),
        Comparison("p50 ÷\nRestate", RESTATE_ALONE, P50),
    ),
    claims=(
        Claim("batch lane ÷ DBOS, 20 at once", LANE, ORDERS_PER_SECOND, DBOS_20, at_least=50),
        Claim("2 processes ÷ DBOS, 20 at once, 1 process", LANE_TWO, ORDERS_PER_SECOND, DBOS_20, at_least=50),
        Claim("batch lane ÷ set-based SQL", LANE, ORDERS_PER_SECOND, SET_BASED, at_least=0.3),
        Claim("2 processes ÷ set-based SQL", LANE_TWO, ORDERS_PER_SECOND, SET_BASED, at_least=0.3),
        Claim("one order alone ÷ Restate, p50", ALONE, P50, RESTATE_ALONE, at_most=2),
        Claim("process_order ÷ six empty tasks, p50", PROCESS_ORDER, P50, EMPTY_TASKS, at_most=1.5),
    ),
)
