"""`order-saga demo` (`make demo`)."""

from __future__ import annotations

from deployments.local.run import run


def demo() -> int:
    """Run everything on this machine, and stop when the sample orders have ended.

    Exit codes: 0, every sample ended as expected and the books balance; 1, otherwise, or something could not
    start.
    """
    return run(demo=True)
