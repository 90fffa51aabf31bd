"""`order-saga worker`: runs flows."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def worker(*options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run flows: Prefect's process worker for the pool orders, one that stops well and keeps orders moving.

    Args:
        options: Those of `prefect worker start`, such as --name and --limit.
    """
    from deployments.worker import work

    work(options)
