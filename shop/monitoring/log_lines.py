"""A log record as people read it, and as machines do: made once, masked once, written to one or both."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import orjson
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict

from shop.files import PRIVATE_FILE
from shop.monitoring.config import Monitoring
from shop.monitoring.log_context import fields
from shop.monitoring.masking import mask, mask_exception, masked
from shop.monitoring.shared_file import SharedFile
from shop.plain import tame
from shop.settings import Settings, settings

_MEGABYTE = 1_000_000
_TRIED_AGAIN_SECONDS = 60
_TOGETHER_SECONDS = 0.1
"""So long lines are gathered, to be written together: a write costs more than a line."""
_MOST_GATHERED = 10_000
_FOR_COLLECTORS = 0o640
"""Of a file outside of `VAR_DIR`: who names one may have a program in its group that collects the lines."""
_WHERE = ("order_id", "step", "orders", "flow_run_id", "task_run_id")
_ON_THE_LINE = ("order_id", "step")
"""What people see of them; machines get all."""
_NOT_MORE = frozenset({"timestamp", "level", "logger", "event", "exception", "pid", *_WHERE})
_EXCEPTION = logging.Formatter()
_OWN = frozenset({*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "send_to_api"})


def lines_of(record: logging.LogRecord) -> EventDict:
    """What the line says, masked: `event`, `level`, `logger`, `timestamp`, where it comes from, what it was given, and `exception`."""
    s, where = settings(), fields()
    more: dict[str, Any] = {}
    if isinstance(record.msg, dict):  # logged with structlog
        more = {key: value for key, value in record.msg.items() if not key.startswith("_")}
        said = str(more.pop("event", ""))
    else:
        said = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        more["exception"] = _EXCEPTION.formatException(record.exc_info)
    if record.stack_info:
        more["exception"] = "\n".join(filter(None, (more.get("exception"), record.stack_info)))
    for key in vars(record).keys() - _OWN:
        if not key.startswith("_"):
            more[key] = getattr(record, key)
    made: EventDict = {
        "timestamp": f"{_second(int(record.created))}.{int(record.msecs):03d}+00:00",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": mask(said, s),
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


@lru_cache(maxsize=4)
def _second(created: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))


@lru_cache(maxsize=4)
def _clock(created: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(created))


def for_people(made: EventDict, created: float) -> str:
    """One line, with the order and step that it is about unless it says so itself; an exception below it."""
    return f"{_clock(int(created))} | {made['level'].upper():<7} | {made['logger']} - {as_text(made)}"


def as_text(made: EventDict) -> str:
    """The same without when and by whom, for where that is shown anyway."""
    said = made["event"]
    about = [str(made[key]) for key in _ON_THE_LINE if key in made and str(made[key]) not in said]
    more = [f" {key}={value}" for key, value in made.items() if key not in _NOT_MORE]
    which = f" [{', '.join(about)}]" if about else ""
    return f"{said}{which}{''.join(more)}".replace("\n", " ") + (f"\n{made['exception']}" if "exception" in made else "")


_all: WeakSet[Lines] = WeakSet()


class Lines(logging.Handler):
    """Writes records for people, for machines, or for both. A line that cannot be written is nobody's failure.

    For machines, lines of a tenth of a second are written together, by a thread; a warning, or worse, is written at once.
    """

    def __init__(self, config: Monitoring, *, people: bool, machines: bool) -> None:
        super().__init__()
        self.config, self.people, self.machines = config, people, machines
        self._file: SharedFile | None = None
        self._settings: Settings | None = None
        self._not_before = 0.0
        self.begin_anew()
        _all.add(self)

    def begin_anew(self) -> None:
        """In a process that was just forked: what was gathered is the parent's to write, and its thread is not here."""
        self._gathered: list[bytes] = []
        self._writing = threading.Lock()
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            made = lines_of(record)
            if self.people:
                sys.stderr.write(tame(for_people(made, record.created)) + "\n")
            if self.machines:
                self._gather(orjson.dumps(made, default=str, option=orjson.OPT_APPEND_NEWLINE))
                if record.levelno >= logging.WARNING or len(self._gathered) > _MOST_GATHERED:
                    self.flush()
        except Exception:  # noqa: BLE001  (whatever it is, no order may fail of it)
            self.handleError(record)

    def flush(self) -> None:
        """Writes what was gathered."""
        with self._writing:
            gathered, self._gathered = self._gathered, []
            if gathered:
                self._write(gathered)

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
        super().close()

    def _gather(self, line: bytes) -> None:
        if self._settings is not settings():  # read anew: the file may be another one
            self.flush()
            self._settings = settings()
            if self._file is not None:
                self._file.close()
            path = self.config.log_file(self._settings.var_dir)
            mode = PRIVATE_FILE if path.is_relative_to(self._settings.var_dir) else _FOR_COLLECTORS
            self._file = SharedFile(path, int(self.config.logging.max_file_size_mb * _MEGABYTE), mode)
        self._gathered.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_writing, name="log lines", daemon=True)
            self._thread.start()
        if not self._some.is_set():
            self._some.set()

    def _keep_writing(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_TOGETHER_SECONDS)
            self._some.clear()
            self.flush()

    def _write(self, lines: list[bytes]) -> None:
        if self._file is None or time.monotonic() < self._not_before:
            return
        try:
            self._file.write_all(lines)
        except OSError as error:
            self._not_before = time.monotonic() + _TRIED_AGAIN_SECONDS
            sys.stderr.write(f"log lines cannot be written to {self._file.path} ({error.strerror}); tried again in a minute\n")


def _begin_anew() -> None:
    for handler in list(_all):
        handler.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
to_logging = ProcessorFormatter.wrap_for_formatter
"""The last of structlog's processors: hands what was logged with it to `logging`, and so to `Lines`."""
