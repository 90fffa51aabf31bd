"""`order-saga worker`: runs flows."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def worker(*options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run flows: Prefect's process worker for the pool WORKER_POOL, with a graceful shutdown and automatic
    consumers.

    Args:
        options: Options of `prefect worker start`, such as --name and --limit.
    """
    from deployments.running import use_running_world

    use_running_world()  # before Prefect is loaded
    from deployments.worker import work

    work(options)
