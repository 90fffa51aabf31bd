"""Configures the shop's logging: to standard error for people, and to a file as JSON lines, according to
`monitoring.yaml`.

Modules log with `logging.getLogger(__name__)`, or with `structlog.get_logger(__name__)`, which takes named
fields.
"""

from __future__ import annotations

import logging
import sys

import structlog

from shop.monitoring.config import Logging, monitoring
from shop.monitoring.log_lines import Lines, to_logging
from shop.settings import settings

LOGGER = "shop"
LOGGERS = (LOGGER, "saga")
"""The loggers of the shop and of the engine."""


def configure() -> None:
    """Sets level and handlers of the shop's and the engine's loggers. Adds a console handler only if there is
    none. Idempotent.

    Raises MonitoringConfigError if the configuration is invalid.
    """
    config = monitoring()
    for name in LOGGERS:
        log = logging.getLogger(name)
        log.setLevel(level())
        for handler in [each for each in log.handlers if isinstance(each, Lines)]:
            log.removeHandler(handler)
            handler.close()
        people = config.logging.default_logger != "file" and not any(
            _is_console(each) for each in log.handlers
        )
        machines = to_file(config.logging)
        if people or machines:
            log.addHandler(Lines(config, people=people, machines=machines))
        log.propagate = False
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, to_logging],
        logger_factory=_logger,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stderr, sys.stdout}


def _logger(*name: str) -> logging.Logger:
    """Returns a logger. structlog's own factory changes how all loggers find their caller, which slows down
    each line."""
    return logging.getLogger(*name or (LOGGER,))


def level() -> str:
    """Returns the configured log level, or else `LOG_LEVEL`."""
    return monitoring().logging.level or settings().monitoring.log_level


def to_file(logging_config: Logging) -> bool:
    """Returns whether log lines go to the file."""
    return logging_config.default_logger != "console"
