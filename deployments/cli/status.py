"""`order-saga status`: shows the shop's metrics over any window: events, steps, business, processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from pydantic import ValidationError
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from deployments import terminal
from deployments.cli.outcome_table import STYLES
from deployments.cli.seconds import Pause
from deployments.database_errors import reason
from deployments.terminal import FittedTable
from shop.monitoring.buckets import Durations
from shop.monitoring.business import BusinessMetrics
from shop.monitoring.commands import EventMetrics, StepMetrics
from shop.monitoring.config import monitoring
from shop.monitoring.metrics import Metrics, SystemMetrics, default_window, read_metrics
from shop.monitoring.window import Window, parse
from shop.runtime.times import shop_zone, shown_time
from shop.values.money import show

_BAD = "bold red"
_TIMES = ("mean", "p50", "p95", "p99")
_TIME_COLUMNS = tuple(f">{name}" for name in _TIMES)
_MORE = 12
"""Limits the processes that are shown."""


def status(*, window: str | None = None, watch: bool = False, every: Pause = 2, json: bool = False) -> int:
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
        return _show(chosen, watch=watch, every=every, as_json=json)
    except ValidationError:  # a subclass of ValueError
        raise
    except ValueError as error:  # of the window, or MonitoringConfigError
        return terminal.refused(str(error))
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
                    live.update(_Cropped(Group(Text(unavailable, "bold red"), last)), refresh=True)
                else:
                    terminal.write(unavailable, sys.stderr)
            else:
                last = shown(metrics, threshold)
                if live is not None:
                    live.update(_Cropped(last), refresh=True)
                elif as_json:
                    terminal.write_json(metrics.model_dump_json())
                else:
                    console.print(last)
            time.sleep(every)


def _unavailable(error: SQLAlchemyError) -> str:
    return f"the shop's database does not answer, or its tables are behind ({reason(error)})"


def _read(window: Window) -> Metrics:
    return read_metrics(window, steps=_step_names())


def _step_names() -> list[str]:
    """Returns the saga's steps if it is loaded. Loading it takes longer than reading the metrics, which
    have the steps that ran."""
    saga = sys.modules.get("flows.order_saga")
    return [step.name for step in saga.ORDER_SAGA] if saga is not None else []


@dataclass(frozen=True, slots=True)
class _Cropped:
    """Crops content to the terminal's height, and shows how many lines are missing."""

    what: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.what, options.update(height=None), pad=False)
        most = max(1, options.size.height)
        if more := len(lines) - most:
            lines = (
                lines
                if more < 0
                else [
                    *lines[: most - 1],
                    [Segment(f"{more + 1} more lines: make the terminal taller", Style(dim=True))],
                ]
            )
        yield Segments(segment for line in lines for segment in (*line, Segment.line()))


def shown(metrics: Metrics, threshold: float) -> Group:
    """Shows all metrics. Highlights error rates above the threshold (a share)."""
    window = metrics.window
    parts: list[RenderableType] = [Text(f"{window.name}, as of {shown_time(metrics.read_at)}", "bold")]
    if metrics.events is not None:
        parts.append(_events(metrics.events, threshold))
    if metrics.steps is not None:
        parts.append(_steps(metrics.steps, threshold))
    parts.append(_business(metrics.business))
    if metrics.system is not None:
        parts.append(_system(metrics.system))
    parts.append(Text(f"Times and percentiles are within {metrics.percentiles_within:.1%}.", "dim"))
    return Group(*parts)


def _events(events: EventMetrics, threshold: float) -> FittedTable:
    counts = (">total", ">steps", ">undos", ">messages", ">succeeded", ">refused", ">errors")
    table = _table("Events", *counts, *_TIME_COLUMNS, ">payload", keys=1)
    size = f"{events.payload.mean:,.0f} B, p99 {events.payload.p99:,} B" if events.payload else ""
    numbers = (events.total_events, events.steps, events.compensations, events.messages)
    table.add_row(
        *map(_number, numbers),
        _share(events.success_rate), _number(events.refused), _rate(events.error_rate, threshold),
        *_times(events.latency), size,
    )  # fmt: skip
    return table


def _steps(steps: Iterable[StepMetrics], threshold: float) -> Group:
    counts, undos = (">commands", ">succeeded", ">refused", ">errors"), (">retries", ">undone", ">undo p50")
    table = _table("Steps", "step", *counts, *_TIME_COLUMNS, *undos, keys=1)
    details: list[RenderableType] = []
    for step in steps:
        undo = step.compensations
        undone = Text(_number(undo.done)) + (Text(f" {undo.failed} failed", _BAD) if undo.failed else Text())
        table.add_row(
            step.step, _number(step.commands),
            _share(step.success_rate), _number(step.refused), _rate(step.error_rate, threshold),
            *_times(step.duration), _number(step.retries), undone, _time(undo.duration.p50_ms),
        )  # fmt: skip
        more = [f"{count:,} {code}" for code, count in step.failures.items()]
        if postponed := step.postponed + undo.postponed:
            more.append(f"{postponed:,} postponed until the external system is available")
        if more:
            details.append(Text(f"  {step.step}: {', '.join(more)}", "dim"))
    return Group(table, *details)


def _business(business: BusinessMetrics) -> FittedTable:
    table = _table("Business", "", " ", wrapped=" ")
    ended = [
        Text(f"{count:,} {outcome}", STYLES.get(outcome, "") if count else "dim")
        for outcome, count in business.orders.items()
    ]
    table.add_row("orders that ended", Text(", ").join(ended))
    table.add_row("from submission to outcome", _in_words(business.latency))
    table.add_row(
        "open now",
        f"{business.open:,}, {business.waiting:,} of them waiting, "
        f"{business.being_undone:,} being compensated",
    )
    if (oldest := business.oldest_waiting) is not None:
        table.add_row("oldest waiting order", f"{oldest.id}, for {_time(oldest.seconds * 1000)}")
    attention = Text(_orders(business.needs_attention), _BAD if business.needs_attention else "")
    table.add_row("under manual review now", attention)
    table.add_row("refunds owed now", _orders(business.refunds_owed))
    for currency, money in business.money.items():
        text = f"{show(money.charged, currency)} charged, {show(money.refunded, currency)} refunded"
        at_risk, owed = show(money.at_risk, currency), show(money.refunds_owed, currency)
        now = f"; now {at_risk} at risk, {owed} of refunds owed"
        table.add_row(currency, text + (now if money.at_risk or money.refunds_owed else ""))
    table.add_row("compensations took", _in_words(business.compensation_latency))
    table.add_row("oversell attempts", f"{business.oversell_attempts:,}, none of them sold")
    writers = ", ".join(
        f"{count:,} by {writer}" for writer, count in business.confirmations.by_writer.items()
    )
    table.add_row("confirmations", writers or "none")
    for why, count in business.confirmations.reasons.items():
        table.add_row("", f"{count:,}: {why}")
    return table


def _system(system: SystemMetrics) -> Group:
    cpu, memory = (">CPU", ">most CPU"), (">memory", ">most memory")
    columns = ("process", "pid", "host", "state", *cpu, *memory, ">connections", ">most", ">of", ">seen")
    table = _table("Processes", *columns, keys=2)
    styles = {"alive": "green", "lost": _BAD, "ended": "dim"}
    for process in system.processes[:_MORE]:
        connections = (process.most_connections, process.connections_limit)
        table.add_row(
            process.kind, str(process.pid), process.host, Text(process.state, styles[process.state]),
            _percent(process.mean_cpu_percent), _percent(process.most_cpu_percent),
            _megabytes(process.mean_memory_mb), _megabytes(process.most_memory_mb),
            "" if process.mean_connections is None else f"{process.mean_connections:.1f}",
            *("" if each is None else str(each) for each in connections),
            shown_time(process.seen_at),
        )  # fmt: skip
    machines = _table("Machines", "host", *cpu, *memory, ">disk", keys=1)
    for machine in system.machines:
        percents = (
            machine.mean_cpu_percent,
            machine.most_cpu_percent,
            machine.mean_memory_percent,
            machine.most_memory_percent,
        )
        machines.add_row(machine.host, *map(_percent, percents), _percent(machine.disk_percent))
    more = len(system.processes) - _MORE
    text = f"{system.leases} may work on orders now" + (
        f"; {more} more processes are not shown" if more > 0 else ""
    )
    return Group(table, machines, Text(text, "dim"))


def _table(title: str, *columns: str, keys: int = 0, wrapped: Collection[str] = ()) -> FittedTable:
    return terminal.table(Text(title, "bold"), *columns, keys=keys, wrapped=wrapped)


def _times(durations: Durations) -> tuple[str, str, str, str]:
    return _time(durations.mean_ms), _time(durations.p50_ms), _time(durations.p95_ms), _time(durations.p99_ms)


def _in_words(durations: Durations) -> str:
    return (
        ", ".join(f"{name} {took}" for name, took in zip(_TIMES, _times(durations), strict=True))
        if durations.mean_ms is not None
        else "-"
    )


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _orders(number: int) -> str:
    return f"{number:,} order" + ("s" if number != 1 else "")


def _number(number: int) -> str:
    return f"{number:,}" if number else "-"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _rate(rate: float | None, threshold: float) -> Text:
    return Text(_share(rate), _BAD if rate is not None and rate > threshold else "")


def _percent(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.0f} %"


def _megabytes(megabytes: float | None) -> str:
    return "" if megabytes is None else f"{megabytes:,.0f} MB"
