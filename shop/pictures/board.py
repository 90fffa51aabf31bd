"""The shop's figures as charts, and as a page with the numbers below them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from shop.money import show
from shop.outcomes import Outcome
from shop.pictures.chart import Chart, bars_over_time, lines_over_time, rows
from shop.pictures.figures import Figures
from shop.pictures.svg import as_image
from shop.pictures.words import duration, for_markdown, markdown_table

_ENOUGH = "every product has more than a fifth of its pieces left"
_ELSEWHERE = "the stock is at the inventory service, which is asked there"


def charts(figures: Figures, steps: Sequence[str]) -> dict[str, Chart]:
    """Name to chart: throughput, latency, outcomes, errors, stock. `steps`: the saga's, in their sequence."""
    times = _times(figures)
    counts: dict[str, list[float]] = {str(outcome): [float(n) for n in parts] for outcome, parts in figures.ended.items()}
    seconds = figures.part_seconds
    every = "hour" if seconds == 3600 else f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
    return {
        "throughput": bars_over_time(f"Orders ended, every {every}", counts or {"completed": [0.0] * len(times)}, times),
        "latency": lines_over_time("From submission to outcome", {"p50": figures.p50, "p95": figures.p95}, times),
        "outcomes": rows("Outcomes", _outcomes(figures), none="no order ended"),
        "errors": rows("Error rate per step", _errors(figures, steps), top=1, none="no step ended"),
        "stock": rows("Stock that runs low", _stock(figures), top=1, none=_ENOUGH if figures.low_stock is not None else _ELSEWHERE),
    }


def board_page(figures: Figures, steps: Sequence[str], title: str) -> str:
    """Markdown with the charts in it, as the Prefect UI shows it."""
    drawn = charts(figures, steps)
    parts = [
        f"# {for_markdown(title)}",
        headline(figures),
        *(as_image(chart) for chart in drawn.values()),
        "## Numbers",
        numbers(figures, steps),
        f"From {figures.since:%Y-%m-%d %H:%M} to {figures.until:%Y-%m-%d %H:%M} UTC. To see one order, run the deployment `show-order`.",
    ]
    return "\n\n".join(parts) + "\n"


def headline(figures: Figures) -> str:
    """What matters most, in a line."""
    parts = [f"{figures.total:,} orders ended"]
    if figures.total:
        completed = sum(figures.ended.get(Outcome.COMPLETED, []))
        parts.append(f"{100 * completed / figures.total:.1f} % completed")
        parts.append(f"half within {duration(figures.p50_overall)}, 95 % within {duration(figures.p95_overall)}")
    if attention := sum(figures.ended.get(Outcome.NEEDS_ATTENTION, [])):
        parts.append(f"{attention:,} need attention")
    if figures.waiting:
        parts.append(f"{figures.waiting:,} under way or waiting, the oldest for {duration(figures.oldest_seconds)}")
    return "; ".join(parts) + "."


def numbers(figures: Figures, steps: Sequence[str]) -> str:
    """The same as tables, for who does not see the charts."""
    tables = []
    if figures.total:
        share = [(outcome, f"{sum(n):,}", f"{100 * sum(n) / figures.total:.1f} %") for outcome, n in figures.ended.items()]
        tables.append(markdown_table(("outcome", "orders", "share"), share))
    if figures.money:
        money = [(m.currency, *(show(amount, m.currency) for amount in (m.charged, m.refunded, m.at_risk))) for m in figures.money]
        tables.append(markdown_table(("currency", "charged", "refunded", "at risk"), money))
    known = {each.step: each for each in figures.steps}
    if done := [known[step] for step in _sequence(figures, steps)]:
        cells = [
            (s.step, f"{s.ended:,}", f"{s.refused:,}", f"{s.failed:,}", f"{100 * s.error_rate:.1f} %", f"{s.retried:,}", f"{s.undone:,}")
            for s in done
        ]
        tables.append(markdown_table(("step", "ended", "refused", "failed", "error rate", "retried", "undone"), cells))
    if figures.low_stock:
        stock = [(p.product_id, p.name, f"{p.available:,}", f"{p.received:,}") for p in figures.low_stock]
        tables.append(markdown_table(("product", "name", "available", "ever received"), stock))
    return "\n\n".join(tables) or "nothing happened"


def _times(figures: Figures) -> list[str]:
    part = timedelta(seconds=figures.part_seconds)
    starts = [figures.since + place * part for place in range(len(figures.p50))]
    return [f"{start:%H:%M}" for start in starts]


def _outcomes(figures: Figures) -> list[tuple[str, float, str, str]]:
    totals = [(outcome, sum(figures.ended.get(outcome, []))) for outcome in Outcome]
    return [(str(o), float(n), f"{n:,} ({100 * n / figures.total:.1f} %)", str(o)) for o, n in totals if n]


def _errors(figures: Figures, steps: Sequence[str]) -> list[tuple[str, float, str, str]]:
    known = {each.step: each for each in figures.steps}
    found = []
    for step in _sequence(figures, steps):
        s = known[step]
        colour = "bad" if s.error_rate > figures.bad_rate else "warning" if s.failed else "good"
        found.append((step, s.error_rate, f"{100 * s.error_rate:.1f} % ({s.failed:,} of {s.ended:,})", colour))
    return found


def _stock(figures: Figures) -> list[tuple[str, float, str, str]]:
    return [
        (p.product_id, p.available / max(1, p.received), f"{p.available:,} of {p.received:,}", "bad" if p.available <= 0 else "warning")
        for p in figures.low_stock or ()
    ]


def _sequence(figures: Figures, steps: Sequence[str]) -> list[str]:
    known = {each.step for each in figures.steps}
    return [step for step in steps if step in known] + sorted(known - set(steps))
