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

from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from sqlalchemy.exc import SQLAlchemyError

from deployments.status_tables import shown
from shop.monitoring.config import MonitoringConfigError, monitoring
from shop.monitoring.metrics import Metrics, default_window, read_metrics
from shop.monitoring.window import Window, parse
from shop.settings import what_is_wrong


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 2 for a window or a configuration that makes no sense, 1 if the database does not answer."""
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
        print(what_is_wrong(error) if isinstance(error, ValidationError) else error, file=sys.stderr)
        return 2
    except ValueError as error:
        parser.error(str(error))
    except SQLAlchemyError as error:
        why = type(getattr(error, "orig", error)).__name__
        print(f"the shop's database does not answer, or its tables are behind ({why}): see `make check`", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _show(window: Callable[[], Window], *, watch: bool, every: float, as_json: bool) -> int:
    if as_json:
        while True:
            print(_read(window()).model_dump_json(indent=None if watch else 2), flush=True)
            if not watch:
                return 0
            time.sleep(every)
    console = Console(width=None if sys.stdout.isatty() else 150)
    threshold = monitoring().worker_monitoring.error_rate_threshold
    if not watch:
        console.print(shown(_read(window()), threshold))
        return 0
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            live.update(shown(_read(window()), threshold), refresh=True)
            time.sleep(every)


def _read(window: Window) -> Metrics:
    return read_metrics(window, steps=_steps())


def _steps() -> list[str]:
    """The saga's, if it is loaded: to load it takes longer than to read the metrics, and what ran is there anyway."""
    saga = sys.modules.get("flows.saga")
    return [step.name for step in saga.ORDER_SAGA] if saga is not None else []


if __name__ == "__main__":
    sys.exit(main())
