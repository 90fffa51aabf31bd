"""`order-saga run` (`make run`)."""

from __future__ import annotations

from deployments.local import run as everything


def run() -> int:
    """Run everything on this machine, with sample orders, until Ctrl-C. The data is kept.

    Exit codes: 0, stopped by Ctrl-C; 1, something could not start, or is misconfigured.
    """
    return everything.run(demo=False)
