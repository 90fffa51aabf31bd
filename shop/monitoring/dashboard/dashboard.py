"""The shop's figures: bars and charts, and a page with the charts and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from shop.monitoring.dashboard.charts import (
    Bar,
    BarList,
    Chart,
    as_image,
    bar_list,
    bars_over_time,
    lines_over_time,
)
from shop.monitoring.dashboard.figures import Figures
from shop.orders.outcomes import Outcome
from shop.orders.page.formatting import duration, for_markdown, markdown_table
from shop.runtime.times import local, shown_minute
from shop.values.money import show

_ENOUGH = "every product has more than a fifth of its pieces left"
_ELSEWHERE = "the stock is at the inventory service, which has its own figures"


def dashboard_page(figures: Figures, steps: Sequence[str], title: str) -> str:
    """Markdown with the charts in it, as the Prefect UI shows it. `steps`: the saga's, in their sequence."""
    parts = [
        f"# {for_markdown(title)}",
        headline(figures),
        *map(as_image, charts(figures, steps)),
        "## Numbers",
        numbers(figures, steps),
        (
            f"From {shown_minute(figures.since)} to {shown_minute(figures.until)}. "
            "To see one order, run the deployment `show-order`."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def charts(figures: Figures, steps: Sequence[str]) -> list[Chart]:
    """Draws throughput, latency, outcomes, errors, stock."""
    times = part_names(figures)
    counts: dict[str, list[float]] = {
        str(outcome): [float(n) for n in parts] for outcome, parts in figures.ended.items()
    }
    seconds = figures.part_seconds
    every = "hour" if seconds == 3600 else f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
    return [
        bars_over_time(f"Orders ended, every {every}", counts or {"completed": [0.0] * len(times)}, times),
        lines_over_time("From submission to outcome", {"p50": figures.p50, "p95": figures.p95}, times),
        *map(bar_list, bar_lists(figures, steps)),
    ]


def bar_lists(figures: Figures, steps: Sequence[str]) -> list[BarList]:
    return [
        BarList("Outcomes", _outcomes(figures), "no order ended"),
        BarList("Error rate per step", _errors(figures, steps), "no step ended"),
        BarList(
            "Stock that runs low", _stock(figures), _ENOUGH if figures.low_stock is not None else _ELSEWHERE
        ),
    ]


def part_names(figures: Figures) -> list[str]:
    """Returns the start of each part of the period, such as `13:00`."""
    part = timedelta(seconds=figures.part_seconds)
    return [f"{local(figures.since + place * part):%H:%M}" for place in range(len(figures.p50))]


def headline(figures: Figures) -> str:
    """Returns the most important figures in a line."""
    parts = [f"{figures.total:,} orders ended"]
    if figures.total:
        completed = sum(figures.ended.get(Outcome.COMPLETED, []))
        parts.append(f"{100 * completed / figures.total:.1f} % completed")
        parts.append(
            f"half within {duration(figures.p50_overall)}, 95 % within {duration(figures.p95_overall)}"
        )
    if attention := sum(figures.ended.get(Outcome.NEEDS_ATTENTION, [])):
        parts.append(f"{attention:,} under manual review")
    if figures.waiting:
        parts.append(
            f"{figures.waiting:,} in progress or waiting, the oldest for {duration(figures.oldest_seconds)}"
        )
    return "; ".join(parts) + "."


def numbers(figures: Figures, steps: Sequence[str]) -> str:
    """Returns the figures as tables, for readers who do not see the charts."""
    tables = []
    if figures.total:
        share = [
            (outcome, f"{sum(n):,}", f"{100 * sum(n) / figures.total:.1f} %")
            for outcome, n in figures.ended.items()
        ]
        tables.append(markdown_table(("outcome", "orders", "share"), share))
    if figures.money:
        head = ("currency", "charged", "refunded", "at risk")
        tables.append(markdown_table(head, money_rows(figures)))
    known = {each.step: each for each in figures.steps}
    if done := [known[step] for step in _sequence(figures, steps)]:
        cells = [
            (
                s.step,
                f"{s.ended:,}",
                f"{s.refused:,}",
                f"{s.failed:,}",
                f"{100 * s.error_rate:.1f} %",
                f"{s.retried:,}",
                f"{s.undone:,}",
            )
            for s in done
        ]
        tables.append(
            markdown_table(("step", "ended", "refused", "failed", "error rate", "retried", "undone"), cells)
        )
    if figures.low_stock:
        stock = [(p.product_id, p.name, f"{p.available:,}", f"{p.received:,}") for p in figures.low_stock]
        tables.append(markdown_table(("product", "name", "available", "ever received"), stock))
    return "\n\n".join(tables) or "nothing happened"


def money_rows(figures: Figures) -> list[tuple[str, ...]]:
    """Returns currency, charged, refunded and at risk."""
    return [
        (m.currency, *(show(amount, m.currency) for amount in (m.charged, m.refunded, m.at_risk)))
        for m in figures.money
    ]


def _outcomes(figures: Figures) -> list[Bar]:
    totals = {outcome: sum(figures.ended.get(outcome, [])) for outcome in Outcome}
    most = max(totals.values())
    return [Bar(o, n / most, f"{n:,} ({100 * n / figures.total:.1f} %)", o) for o, n in totals.items() if n]


def _errors(figures: Figures, steps: Sequence[str]) -> list[Bar]:
    known = {each.step: each for each in figures.steps}
    bars = []
    for step in _sequence(figures, steps):
        s = known[step]
        colour = "bad" if s.error_rate > figures.bad_rate else "warning" if s.failed else "good"
        bars.append(
            Bar(step, s.error_rate, f"{100 * s.error_rate:.1f} % ({s.failed:,} of {s.ended:,})", colour)
        )
    return bars


def _stock(figures: Figures) -> list[Bar]:
    return [
        Bar(
            p.product_id,
            p.available / max(1, p.received),
            f"{p.available:,} of {p.received:,}",
            "bad" if p.available <= 0 else "warning",
        )
        for p in figures.low_stock or ()
    ]


def _sequence(figures: Figures, steps: Sequence[str]) -> list[str]:
    known = {each.step for each in figures.steps}
    return [step for step in steps if step in known] + sorted(known - set(steps))
