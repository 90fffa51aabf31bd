"""Log lines for people (text on standard error) and for machines (a JSON file per process): built and masked
once per record, and written according to `monitoring.yaml`.

Modules log with `logging.getLogger(__name__)`, or with `structlog.get_logger(__name__)`, which takes named
fields.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import orjson
import psutil
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict

from saga.log_context import fields
from shop.monitoring.config import Logging, Monitoring, monitoring
from shop.monitoring.masking import mask, mask_exception, masked
from shop.runtime.files import PRIVATE_FILE, make_private
from shop.settings import settings
from shop.text.sanitize import tame

_MEGABYTE = 1_000_000
KEPT = 5
"""Number of older files per process: `shop.HOST-PID.jsonl.1` is the latest of them."""
_REPORTED_AGAIN_SECONDS = 60
_FOR_COLLECTORS = 0o640
"""Mode of a file outside `VAR_DIR`: its group may run a log collector."""
_WHERE = ("order_id", "step", "orders", "flow_run_id", "task_run_id")
_SHOWN_FIELDS = ("order_id", "step")
"""The fields that people see; the JSON lines have all."""
_NOT_MORE = frozenset({"timestamp", "level", "logger", "event", "exception", "pid", "order_ids", *_WHERE})
"""Fields that are not appended to the text for people: they have their own place, or list a whole batch."""
_JSON = "_json"
"""The attribute of a record for its JSON line."""
_EXCEPTION = logging.Formatter()
_OWN = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "send_to_api"}
)


def lines_of(record: logging.LogRecord) -> EventDict:
    """Returns the masked fields of a record: `event`, `level`, `logger`, `timestamp`, `exception`, order,
    step, run, and its other fields."""
    s, where = settings(), fields()
    more: dict[str, Any] = {}
    if isinstance(record.msg, dict):  # logged with structlog
        more = {key: value for key, value in record.msg.items() if not key.startswith("_")}
        message = str(more.pop("event", ""))
    else:
        message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        more["exception"] = _EXCEPTION.formatException(record.exc_info)
    if record.stack_info:
        more["exception"] = "\n".join(filter(None, (more.get("exception"), record.stack_info)))
    for key in vars(record).keys() - _OWN:
        if not key.startswith("_"):
            more[key] = getattr(record, key)
    made: EventDict = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": mask(message, s),
    }
    for key in _WHERE:
        if (value := more.pop(key, None) or where.get(key)) is not None:
            made[key] = mask(str(value), s) if key == "order_id" else value
    if isinstance(exception := more.pop("exception", None), str):
        made["exception"] = mask_exception(exception, s)
    if more:
        made |= masked(more, s)
    made["pid"] = record.process
    return made


def for_people(made: EventDict, created: float) -> str:
    """Formats one line, with order and step unless the text names them; an exception follows below."""
    clock = time.strftime("%H:%M:%S", time.localtime(created))
    return f"{clock} | {made['level'].upper():<7} | {made['logger']} - {as_text(made)}"


def as_text(made: EventDict) -> str:
    """Formats a line without time and logger, for places that show them."""
    message = made["event"]
    about = [str(made[key]) for key in _SHOWN_FIELDS if key in made and str(made[key]) not in message]
    more = [f" {key}={value}" for key, value in made.items() if key not in _NOT_MORE]
    which = f" [{', '.join(about)}]" if about else ""
    return f"{message}{which}{''.join(more)}".replace("\n", " ") + (
        f"\n{made['exception']}" if "exception" in made else ""
    )


class Lines(logging.Handler):
    """Writes records for people, for machines, or both. An unwritable line causes no other failure."""

    def __init__(self, config: Monitoring, *, people: bool, machines: bool) -> None:
        super().__init__()
        self.config, self.people, self.machines = config, people, machines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            made = lines_of(record)
            if self.people:
                sys.stderr.write(tame(for_people(made, record.created)) + "\n")
            if self.machines:
                record.__dict__[_JSON] = orjson.dumps(made, default=str).decode()
                _json_file(self.config, settings().var_dir).handle(record)
        except Exception:  # noqa: BLE001  (logging must not fail an order)
            self.handleError(record)


class _JsonFile(RotatingFileHandler):
    """The file of one process: two processes that rotated the same file would lose lines."""

    def __init__(self, path: Path, most_bytes: int, mode: int) -> None:
        self._file_mode, self._silent_until = mode, 0.0
        super().__init__(path, maxBytes=most_bytes, backupCount=KEPT, encoding="utf-8", delay=True)

    def format(self, record: logging.LogRecord) -> str:
        return str(record.__dict__[_JSON])

    def _open(self) -> TextIOWrapper:
        make_private(Path(self.baseFilename).parent)
        descriptor = os.open(
            self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._file_mode
        )
        return os.fdopen(descriptor, "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  (logging's)
        """Reports lost lines once a minute, and reopens the file at the next line."""
        error = sys.exc_info()[1]
        stream, self.stream = self.stream, None  # the state before the first line
        if stream is not None:
            with suppress(OSError):
                stream.close()
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _REPORTED_AGAIN_SECONDS
            reason = getattr(error, "strerror", None) or type(error).__name__
            sys.stderr.write(
                f"log lines cannot be written to {self.baseFilename} ({reason}) "
                "and are lost until that is repaired\n"
            )


_open_file: _JsonFile | None = None
_opening = threading.Lock()


def _json_file(config: Monitoring, var_dir: Path) -> _JsonFile:
    """Returns the file of this process, which all handlers share. Other settings may name another file; a
    forked process has its own."""
    global _open_file  # noqa: PLW0603
    path = config.log_file(var_dir, f"{socket.gethostname()}-{os.getpid()}").absolute()
    most = int(config.logging.max_file_size_mb * _MEGABYTE)
    with _opening:
        known = _open_file
        if known is None or (Path(known.baseFilename), known.maxBytes) != (path, most):
            if known is not None:
                known.close()
            mode = PRIVATE_FILE if path.is_relative_to(var_dir.absolute()) else _FOR_COLLECTORS
            known = _open_file = _JsonFile(path, most, mode)
            _remove_old_files(config, var_dir)
        return known


def _remove_old_files(config: Monitoring, var_dir: Path) -> None:
    """Deletes the files of ended processes, after `trace_retention_hours` without a line."""
    files = config.log_file(var_dir)
    before, after = map(re.escape, files.name.split("*"))
    name = re.compile(rf"{before}(?P<host>.+)-(?P<pid>\d+){after}(?:\.\d+)?")
    oldest = time.time() - config.event_monitoring.trace_retention_hours * 3600
    with suppress(OSError):
        for path in files.parent.glob(f"{files.name}*"):
            if (
                (found := name.fullmatch(path.name))
                and path.stat().st_mtime < oldest
                and not _is_running(found["host"], int(found["pid"]))
            ):
                path.unlink()


def _is_running(host: str, pid: int) -> bool:
    """Returns whether the process runs. False for another machine, whose processes are unknown."""
    return host == socket.gethostname() and psutil.pid_exists(pid)


to_logging = ProcessorFormatter.wrap_for_formatter
"""The last processor of structlog: passes its events to `logging`, and so to `Lines`."""


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
