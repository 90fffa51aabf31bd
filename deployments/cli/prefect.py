"""`order-saga worker` and `order-saga prefect`: Prefect's worker, and its own command."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

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


def prefect(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> NoReturn:
    """Run Prefect's own command, with secrets from files, such as PREFECT_SERVER_API_AUTH_STRING_FILE.

    Exit codes: those of Prefect's command; 2, a secret's file cannot be read.

    Args:
        arguments: Command and options of prefect, such as server start --no-services.
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *arguments])  # noqa: S606  (no shell is wanted)
