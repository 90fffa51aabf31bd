"""Tables of orders under manual review, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shop.orders.page.story import ReviewEntry
from shop.review.attention import ReviewCase, advice
from shop.runtime.times import shown_minute
from shop.values.money import show


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one order."""

    case: ReviewCase
    result: str
    refused: bool = False
    changed: bool = False


def listed(cases: Sequence[ReviewCase]) -> Group:
    """Makes one line per order, and the sums."""
    table = _table(
        f"Under manual review: {len(cases)}",
        "order",
        "since",
        "step",
        "at risk",
        "code",
        "last error",
        "retries",
        "next try",
    )
    for case in cases:
        table.add_row(
            Text(case.order_id),
            _minute(case.since),
            case.step,
            show(case.amount_at_risk, case.currency),
            case.error_code,
            Text(case.last_error),
            str(case.retries),
            _next_try(case),
        )
    return Group(table, _sums(cases))


def decided_table(rows: Sequence[Row], *, dry_run: bool) -> Group:
    """Makes one line per order, the count of each result, and the sum of the changed ones."""
    table = _table(
        "What would be done; nothing was changed" if dry_run else "What was done",
        "order",
        "step",
        "at risk",
        "result",
    )
    for row in rows:
        style = "bold red" if row.refused else "green" if row.changed else "dim"
        amount = show(row.case.amount_at_risk, row.case.currency)
        table.add_row(Text(row.case.order_id), row.case.step, amount, Text(row.result, style))
    counts = Counter("refused" if row.refused else row.result for row in rows)
    text = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    return Group(table, Text(f"{text}; ") + _sums([row.case for row in rows if row.changed]))


def details(case: ReviewCase, decisions: Iterable[ReviewEntry]) -> dict[str, str]:
    """Returns the details of one order, by label."""
    return {
        "order": case.order_id,
        "since": _minute(case.since),
        "step": case.step,
        "at risk": show(case.amount_at_risk, case.currency),
        "code": case.error_code,
        "last error": case.last_error,
        "retries": str(case.retries),
        "next try": _next_try(case),
        "what to do": advice(case),
        "decided before": "; ".join(_decision(each) for each in decisions) or "nothing",
    }


def _decision(row: ReviewEntry) -> str:
    reference = f", {row.reference}" if row.reference else ""
    return f"{row.at} {row.action} by {row.by}{reference} ({row.started_by or 'unknown'})"


def _next_try(case: ReviewCase) -> str:
    if case.being_retried:
        return "now"
    return _minute(case.next_retry_at) if case.next_retry_at else "held"


def _minute(time: datetime) -> str:
    return shown_minute(time)


def _sums(cases: Iterable[ReviewCase]) -> Text:
    sums: dict[str, Decimal] = {}
    for case in cases:
        sums[case.currency] = sums.get(case.currency, Decimal(0)) + case.amount_at_risk
    amounts = ", ".join(show(amount, currency) for currency, amount in sorted(sums.items()))
    return Text(f"at risk: {amounts or 'nothing'}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(
            column, overflow="fold", justify="right" if column in {"at risk", "retries"} else "left"
        )
    return table
