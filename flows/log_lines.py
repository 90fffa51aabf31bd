"""Connects the shop's log lines with Prefect's: the shop's lines reach the UI, and the runs' lines the
shop's file, each with its run and masked."""

from __future__ import annotations

import logging
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.configuration import ensure_logging_setup
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from structlog.contextvars import get_contextvars

from saga.log_context import add_source
from shop.monitoring import log_lines
from shop.monitoring.config import monitoring
from shop.monitoring.log_lines import Lines, as_text, lines_of
from shop.monitoring.masking import mask_exception
from shop.settings import settings

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
_RUN_FIELDS = ("flow_", "task_", "deployment_", "work_")
"""Prefixes of the fields that Prefect adds to the lines of a run."""
_OUTSIDE_OF_TASKS = ("prefect.orders", "prefect.saga")
"""The loggers `get_logger("orders")` and, in the engine, `get_logger("saga")`, for code outside tasks. By
itself, Prefect shows their lines only on the console."""


def configure() -> None:
    """Connects the shop's log lines with Prefect's. Idempotent. Raises MonitoringConfigError."""
    ensure_logging_setup()
    log_lines.configure()
    add_source(_run)
    config = monitoring()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler) and not isinstance(handler.formatter, _MaskedFormatter):
            handler.setFormatter(_MaskedFormatter(handler.formatter))
    for name in (*log_lines.LOGGERS, *_OUTSIDE_OF_TASKS, *_RUN_LOGGERS):
        log = logging.getLogger(name)
        if not any(isinstance(handler, APILogHandler) for handler in log.handlers):
            log.addHandler(_UIHandler())
        for handler in log.handlers:
            if isinstance(handler, APILogHandler):
                handler.setFormatter(_TextFormatter())
        if name not in log_lines.LOGGERS and log_lines.to_file(config.logging):
            for handler in [each for each in log.handlers if isinstance(each, Lines)]:
                log.removeHandler(handler)
            log.addHandler(Lines(config, people=False, machines=True))


def _run() -> dict[str, Any]:
    """Returns the fields of the run that logs the line."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    found: dict[str, Any] = {}
    if task is not None:
        found = {"task_run_id": str(task.task_run.id), "flow_run_id": str(task.task_run.flow_run_id)}
    if flow is not None and flow.flow_run is not None:
        found["flow_run_id"] = str(flow.flow_run.id)
        order = (flow.parameters or {}).get("order")  # in a run of one order, also before and after its steps
        if isinstance(
            given := order.get("id") if isinstance(order, dict) else getattr(order, "id", None), str
        ):
            found["order_id"] = given
    return found


class _UIHandler(APILogHandler):
    """Sends lines of a run to the UI, without those that name orders of a batch: there may be thousands."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "order_ids") or (
            getattr(record, "order_id", None) is not None and "orders" in get_contextvars()
        ):
            return
        if TaskRunContext.get() is not None or FlowRunContext.get() is not None:
            super().emit(record)


class _TextFormatter(logging.Formatter):
    """Formats lines for Prefect's own handlers of runs' lines."""

    def format(self, record: logging.LogRecord) -> str:
        return _text(record)


def _text(record: logging.LogRecord) -> str:
    """Returns the masked text, without the fields that the UI shows beside it."""
    return as_text({key: value for key, value in lines_of(record).items() if not key.startswith(_RUN_FIELDS)})


class _MaskedFormatter(logging.Formatter):
    """Formats Prefect's own console lines as Prefect does, with masked exceptions."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return mask_exception(self._inner.format(record), settings())
