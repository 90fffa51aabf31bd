"""The shop's own log lines: to standard error, at `LOG_LEVEL`.

To see them in the Prefect UI too, set PREFECT_LOGGING_EXTRA_LOGGERS=shop.
"""

from __future__ import annotations

import logging

from shop.settings import settings

_FORMAT = "%(asctime)s | %(levelname)-7s | %(name)s - %(message)s"


def configure() -> None:
    """Gives the `shop` logger its level, and a handler unless somebody has given it one. Harmless when called again."""
    log = logging.getLogger("shop")
    log.setLevel(settings().log_level)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
        log.addHandler(handler)
        log.propagate = False
