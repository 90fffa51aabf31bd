"""Orders under manual review, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shop.orders.page.story import DeskRow
from shop.review.advice import advice
from shop.review.attention import OnTheDesk
from shop.values.money import show


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one order."""

    matter: OnTheDesk
    result: str
    refused: bool = False
    changed: bool = False


def listed(matters: Sequence[OnTheDesk]) -> Group:
    """One line for each order, and the sums."""
    table = _table(f"Under manual review: {len(matters)}", "order", "since", "step", "at risk", "code", "last error", "retries", "next try")
    for matter in matters:
        table.add_row(
            Text(matter.order_id),
            _minute(matter.since),
            matter.step,
            show(matter.amount_at_risk, matter.currency),
            matter.error_code,
            Text(matter.last_error),
            str(matter.retries),
            _next_try(matter),
        )
    return Group(table, _sums(matters))


def decided_table(rows: Sequence[Row], *, dry_run: bool) -> Group:
    """One line for each order, how many had which result, and the sum of those that were, or would be, changed."""
    table = _table("What would be done; nothing was changed" if dry_run else "What was done", "order", "step", "at risk", "result")
    for row in rows:
        style = "bold red" if row.refused else "green" if row.changed else "dim"
        amount = show(row.matter.amount_at_risk, row.matter.currency)
        table.add_row(Text(row.matter.order_id), row.matter.step, amount, Text(row.result, style))
    counts = Counter("refused" if row.refused else row.result for row in rows)
    text = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    return Group(table, Text(f"{text}; ") + _sums([row.matter for row in rows if row.changed]))


def details(matter: OnTheDesk, decisions: Iterable[DeskRow]) -> dict[str, str]:
    """All that is known of one order, by name."""
    return {
        "order": matter.order_id,
        "since": _minute(matter.since),
        "step": matter.step,
        "at risk": show(matter.amount_at_risk, matter.currency),
        "code": matter.error_code,
        "last error": matter.last_error,
        "retries": str(matter.retries),
        "next try": _next_try(matter),
        "what to do": advice(matter),
        "decided before": "; ".join(_decision(each) for each in decisions) or "nothing",
    }


def _decision(row: DeskRow) -> str:
    reference = f", {row.reference}" if row.reference else ""
    return f"{row.at} {row.action} by {row.by}{reference} ({row.started_by or 'unknown'})"


def _next_try(matter: OnTheDesk) -> str:
    if matter.being_retried:
        return "now"
    return _minute(matter.next_retry_at) if matter.next_retry_at else "held"


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _sums(matters: Iterable[OnTheDesk]) -> Text:
    sums: dict[str, Decimal] = {}
    for matter in matters:
        sums[matter.currency] = sums.get(matter.currency, Decimal(0)) + matter.amount_at_risk
    return Text(f"at risk: {', '.join(show(amount, currency) for currency, amount in sorted(sums.items())) or 'nothing'}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in {"at risk", "retries"} else "left")
    return table
