"""The shop's log lines in the Prefect UI, and the runs' own lines in the shop's file: each with its run, and masked, wherever it goes."""

from __future__ import annotations

import logging
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.configuration import ensure_logging_setup
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from structlog.contextvars import get_contextvars

from saga.log_context import add_source
from shop.monitoring.config import monitoring
from shop.monitoring.log_lines import Lines, as_text, lines_of
from shop.monitoring.masking import mask_exception
from shop.runtime import logs
from shop.settings import settings

_OF_RUNS = ("prefect.flow_runs", "prefect.task_runs")
_BESIDE = ("flow_", "task_", "deployment_", "work_")
"""What Prefect adds to the lines of a run, about the run."""
_OUTSIDE_OF_TASKS = "prefect.orders"
"""`get_logger("orders")`: lines of what runs beside the tasks, which Prefect itself shows on the console only."""


def configure() -> None:
    """Sets up the shop's lines, and connects them with Prefect's. Harmless when called again. Raises MonitoringConfigError."""
    ensure_logging_setup()
    logs.configure()
    add_source(_run)
    config = monitoring()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler) and not isinstance(handler.formatter, _Masked):
            handler.setFormatter(_Masked(handler.formatter))
    for name in (*logs.LOGGERS, _OUTSIDE_OF_TASKS, *_OF_RUNS):
        log = logging.getLogger(name)
        for handler in log.handlers:
            if isinstance(handler, APILogHandler):
                handler.setFormatter(_AsText())
        if not any(isinstance(handler, APILogHandler) for handler in log.handlers):
            log.addHandler(_ToTheUI())
        if name not in logs.LOGGERS and logs.to_file(config.logging):
            for handler in [each for each in log.handlers if isinstance(each, Lines)]:
                log.removeHandler(handler)
            log.addHandler(Lines(config, people=False, machines=True))


def _run() -> dict[str, Any]:
    """The run that this is logged in."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    found: dict[str, Any] = {}
    if task is not None:
        found = {"task_run_id": str(task.task_run.id), "flow_run_id": str(task.task_run.flow_run_id)}
    if flow is not None and flow.flow_run is not None:
        found["flow_run_id"] = str(flow.flow_run.id)
        order = (flow.parameters or {}).get("order")  # of a run of one order, before and after its steps, too
        if isinstance(given := order.get("id") if isinstance(order, dict) else getattr(order, "id", None), str):
            found["order_id"] = given
    return found


class _ToTheUI(APILogHandler):
    """Lines that are logged in a run. One for each order of a batch are left out: the lane would send thousands a second."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "order_id", None) is not None and "orders" in get_contextvars():
            return
        if TaskRunContext.get() is not None or FlowRunContext.get() is not None:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return _text(record)


class _AsText(logging.Formatter):
    """The same for Prefect's own handlers of runs' lines."""

    def format(self, record: logging.LogRecord) -> str:
        return _text(record)


def _text(record: logging.LogRecord) -> str:
    """Masked, and without what the UI shows beside it."""
    return as_text({key: value for key, value in lines_of(record).items() if not key.startswith(_BESIDE)})


class _Masked(logging.Formatter):
    """Prefect's own lines on the console, as Prefect makes them; exceptions are masked, too."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return mask_exception(self._inner.format(record), settings())
