"""The task that runs an optimiser on the confirmation's program."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from shop.confirmation.program_versions import Optimizer
from shop.runtime.extras import needs_extra
from shop.settings import settings

if TYPE_CHECKING:
    from shop.confirmation.optimising import Optimized


@task(name="optimize_program", cache_policy=NO_CACHE, persist_result=False)
async def optimize_program(optimizer: Optimizer, demonstrations: int, calls: int, by: str) -> Optimized:
    """Runs the optimiser in a thread, because it blocks. A cancelled run ends at the model's next answer and
    saves nothing. `by`: who started it."""
    with needs_extra("llm", "optimize-confirmation"):
        from shop.confirmation.optimising import run

    stop = threading.Event()
    report = get_run_logger().info
    work = partial(
        run, settings(), optimizer, shown=demonstrations, calls=calls, stop=stop, report=report, by=by
    )
    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        stop.set()
        raise
