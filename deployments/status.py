"""`python -m deployments.status`: how the shop does, over any window: events, steps, business, processes.

python -m deployments.status                      # the window of monitoring.yaml (performance_window_minutes)
python -m deployments.status --window 24h         # 10m, 1h, 24h, 7d, all, or FROM/TO in ISO 8601
python -m deployments.status --watch              # again every few seconds, until Ctrl-C
python -m deployments.status --json               # the same for machines
"""

from __future__ import annotations

import argparse
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
from deployments.status_tables import Cropped, shown
from shop.monitoring.config import MonitoringConfigError, monitoring
from shop.monitoring.metrics import Metrics, default_window, read_metrics
from shop.monitoring.window import Window, parse
from shop.settings import what_is_wrong


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 2 for a window or a configuration that makes no sense, 1 if the database does not answer: with --watch that is
    told, and asked again."""
    parser = argparse.ArgumentParser(prog="python -m deployments.status", description="How the shop does, over any window.")
    parser.add_argument("--window", help="10m, 1h, 24h, 7d, all, or FROM/TO in ISO 8601 (default: performance_window_minutes)")
    parser.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    parser.add_argument("--every", type=float, default=2, metavar="SECONDS", help="so often, with --watch (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch, a line each time")
    options = parser.parse_args(arguments)

    def window() -> Window:
        return parse(options.window) if options.window else default_window()

    try:
        return _show(window, watch=options.watch, every=max(0.2, options.every), as_json=options.json)
    except (MonitoringConfigError, ValidationError) as error:
        terminal.write(what_is_wrong(error) if isinstance(error, ValidationError) else str(error), sys.stderr)
        return 2
    except ValueError as error:
        parser.error(str(error))
    except SQLAlchemyError as error:
        terminal.write(f"{_away(error)}: see `make check`", sys.stderr)
        return 1
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
            # On a screen of its own: tables that are taller than the terminal would stay behind at each round.
            live = stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
        last: RenderableType = ""
        while True:
            try:
                metrics = _read(window())
            except SQLAlchemyError as error:  # it may come back
                away = f"{_away(error)}; asked again every {every:g} s"
                if live is not None:
                    live.update(Cropped(Group(Text(away, "bold red"), last)), refresh=True)
                else:
                    terminal.write(away, sys.stderr)
            else:
                last = shown(metrics, threshold)
                if live is not None:
                    live.update(Cropped(last), refresh=True)
                elif as_json:
                    terminal.write_json(metrics.model_dump_json())
                else:
                    console.print(last)
            time.sleep(every)


def _away(error: SQLAlchemyError) -> str:
    return f"the shop's database does not answer, or its tables are behind ({type(getattr(error, 'orig', None) or error).__name__})"


def _read(window: Window) -> Metrics:
    return read_metrics(window, steps=_steps())


def _steps() -> list[str]:
    """The saga's, if it is loaded: to load it takes longer than to read the metrics, and what ran is there anyway."""
    saga = sys.modules.get("flows.saga")
    return [step.name for step in saga.ORDER_SAGA] if saga is not None else []


if __name__ == "__main__":
    sys.exit(main())
