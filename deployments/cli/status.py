"""`order-saga status`: shows the shop's metrics over any window: events, steps, business, processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from deployments import terminal
from deployments.cli.status_tables import Cropped, shown
from shop.monitoring.config import monitoring
from shop.monitoring.metrics import Metrics, default_window, read_metrics
from shop.monitoring.window import Window, parse
from shop.runtime.times import shop_zone


def status(*, window: str | None = None, watch: bool = False, every: float = 2, json: bool = False) -> int:
    """Show throughput, latency, errors and processes over any window.

    Exit codes: 0; 2, the window or a setting is invalid, or the database does not answer (with --watch it is
    retried).

    Args:
        window: 10m, 1h, 24h, 7d, all, or FROM/TO in ISO 8601 (in SHOP_TIMEZONE unless they have a zone).
            Default: performance_window_minutes of monitoring.yaml.
        watch: Repeat until Ctrl-C.
        every: Seconds between repetitions, with --watch.
        json: Print JSON; with --watch, one line per repetition.
    """

    def chosen() -> Window:
        return parse(window, shop_zone()) if window else default_window()

    try:
        return _show(chosen, watch=watch, every=max(0.2, every), as_json=json)
    except ValidationError:  # a subclass of ValueError
        raise
    except ValueError as error:  # of the window, or MonitoringConfigError
        terminal.write(str(error), sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _show(window: Callable[[], Window], *, watch: bool, every: float, as_json: bool) -> int:
    threshold = monitoring().worker_monitoring.error_rate_threshold
    console = terminal.console(width=150)
    if not watch:
        metrics = _read(window())
        if as_json:
            terminal.write_json(metrics.model_dump_json(indent=2))
        else:
            console.print(shown(metrics, threshold))
        return 0
    with ExitStack() as stack:
        live = None
        if not as_json and console.is_terminal and not console.is_dumb_terminal:
            # On the alternate screen: tables that are taller than the terminal would otherwise scroll.
            live = stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
        last: RenderableType = ""
        while True:
            try:
                metrics = _read(window())
            except SQLAlchemyError as error:  # may be transient
                unavailable = f"{_unavailable(error)}; retrying every {every:g} s"
                if live is not None:
                    live.update(Cropped(Group(Text(unavailable, "bold red"), last)), refresh=True)
                else:
                    terminal.write(unavailable, sys.stderr)
            else:
                last = shown(metrics, threshold)
                if live is not None:
                    live.update(Cropped(last), refresh=True)
                elif as_json:
                    terminal.write_json(metrics.model_dump_json())
                else:
                    console.print(last)
            time.sleep(every)


def _unavailable(error: SQLAlchemyError) -> str:
    reason = type(getattr(error, "orig", None) or error).__name__
    return f"the shop's database does not answer, or its tables are behind ({reason})"


def _read(window: Window) -> Metrics:
    return read_metrics(window, steps=_steps())


def _steps() -> list[str]:
    """Returns the saga's steps if it is loaded. Loading it takes longer than reading the metrics, which
    have the steps that ran."""
    saga = sys.modules.get("flows.order_saga")
    return [step.name for step in saga.ORDER_SAGA] if saga is not None else []
