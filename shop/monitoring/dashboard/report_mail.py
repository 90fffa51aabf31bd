"""The daily report as a mail for the shop itself: tables with bars. No image, nothing from outside, so that
every mail program shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from html import escape
from typing import Any

from shop.monitoring.dashboard.charts import COLOURS, LIGHT, BarList
from shop.monitoring.dashboard.dashboard import bar_lists, headline, money_rows, part_names
from shop.monitoring.dashboard.figures import Figures
from shop.notifications.kinds import REPORT
from shop.notifications.mail import address_of
from shop.notifications.message import Mail, message
from shop.orders.page.formatting import duration
from shop.runtime.times import shop_zone
from shop.settings import Settings
from shop.text.sanitize import one_line

_FONT = (
    "font-family:system-ui,-apple-system,Segoe UI,Roboto,Arial,sans-serif;"
    f"color:{LIGHT['ink']};background:{LIGHT['ground']}"
)
_CELL = f"padding:3px 12px 3px 0;font-size:13px;color:{LIGHT['ink']};white-space:nowrap"
_BAR_WIDTH = 240
"""Width of the longest bar, in pixels."""
_Row = Sequence[str]


def report_payload(figures: Figures, steps: tuple[str, ...]) -> dict[str, Any]:
    """Returns the report's content for the outbox. The mail is made only from it, so it is the same
    whenever it is sent."""
    return {"figures": figures.model_dump(mode="json"), "steps": list(steps)}


def report_mail(day: str, payload: Mapping[str, Any], s: Settings, date: datetime, installation: str) -> Mail:
    """Makes the day's mail to `REPORT_EMAIL`. The same payload makes the same mail."""
    figures = Figures.model_validate(payload["figures"])
    to = address_of("", s.shop.report_email or s.shop.support_email)
    title = f"{one_line(s.shop.name)}: orders of {one_line(day)}"
    own = "-".join(filter(None, (REPORT, one_line(day), installation)))
    headers = {
        "From": str(address_of(s.shop.name, s.shop.email)),
        "To": str(to),
        "Subject": title,
        "Date": format_datetime(date),
        "Message-ID": f"<{own}@{s.shop.email.rpartition('@')[2]}>",
        "Auto-Submitted": "auto-generated",
    }
    lists = bar_lists(figures, payload["steps"])
    text, html = _plain(title, figures, lists), _html(title, figures, lists)
    return Mail(s.shop.email, to.addr_spec, message(to, headers, text, html))


def _plain(title: str, figures: Figures, lists: Sequence[BarList]) -> str:
    parts = [title, headline(figures)]
    if figures.money:
        lines = [
            f"  {currency}: {charged} charged, {refunded} refunded, {at_risk} at risk"
            for currency, charged, refunded, at_risk in money_rows(figures)
        ]
        parts.append("\n".join(["Money", *lines]))
    for each in lists:
        lines = [f"  {one_line(bar.name)}: {bar.text}" for bar in each.bars] or [f"  {each.none}"]
        parts.append("\n".join([each.title, *lines]))
    return "\n\n".join(parts) + "\n"


def _html(title: str, figures: Figures, lists: Sequence[BarList]) -> str:
    parts = [
        f'<h1 style="font-size:20px">{escape(title)}</h1>',
        f'<p style="font-size:14px">{escape(headline(figures))}</p>',
    ]
    if figures.money:
        parts.append(
            _table(
                "Money",
                ("currency", "charged", "refunded", "at risk"),
                [map(escape, row) for row in money_rows(figures)],
            )
        )
    for each in lists:
        rows = [
            (escape(one_line(bar.name)), _bar([(bar.share, COLOURS[bar.colour])]), escape(bar.text))
            for bar in each.bars
        ]
        parts.append(_table(each.title, (), rows or [(escape(each.none),)]))
    parts.append(
        _table(
            f"Hour by hour, {escape(str(shop_zone()))} {_legend(figures)}",
            ("", "", "ended", "half within", "95 % within"),
            _hours(figures),
        )
    )
    return (
        '<!DOCTYPE html><html lang="en">'
        f'<head><meta charset="utf-8"><title>{escape(title)}</title></head><body style="{_FONT}">'
        f"{''.join(parts)}</body></html>\n"
    )


def _hours(figures: Figures) -> list[_Row]:
    ended = [[counts[place] for counts in figures.ended.values()] for place in range(len(figures.p50))]
    most = max(map(sum, ended), default=0) or 1
    colours = [COLOURS[outcome] for outcome in figures.ended]
    rows: list[_Row] = []
    for time, counts, p50, p95 in zip(part_names(figures), ended, figures.p50, figures.p95, strict=True):
        bar = _bar([(count / most, colour) for count, colour in zip(counts, colours, strict=True)])
        rows.append((time, bar, f"{sum(counts):,}" if any(counts) else "", duration(p50), duration(p95)))
    return rows


def _legend(figures: Figures) -> str:
    return " ".join(
        f'<span style="color:{COLOURS[outcome]}">&#9632;</span> '
        f'<span style="font-size:13px;font-weight:normal">{outcome}</span>'
        for outcome in figures.ended
    )


def _table(title: str, head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Makes a table. `title` and the cells of `rows` are HTML."""
    heading = "".join(
        f'<th align="left" style="{_CELL};color:{LIGHT["dim"]};font-weight:normal">{escape(name)}</th>'
        for name in head
    )
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<h2 style="font-size:15px;margin:20px 0 6px">{title}</h2>'
        '<table cellpadding="0" cellspacing="0" border="0">'
        f"{f'<tr>{heading}</tr>' if head else ''}{body}</table>"
    )


def _bar(pieces: Sequence[tuple[float, str]]) -> str:
    """Makes a bar of cells with background colours; a piece is its share of the width, and its colour."""
    widths = [(round(_BAR_WIDTH * share) or 2, colour) for share, colour in pieces if share > 0]
    rest = _BAR_WIDTH - sum(width for width, _ in widths)
    cells = "".join(
        f'<td width="{width}" bgcolor="{colour}" '
        f'style="background-color:{colour};font-size:1px;line-height:14px">&nbsp;</td>'
        for width, colour in [*widths, (rest, LIGHT["grid"])]
        if width > 0
    )
    return (
        f'<table role="presentation" width="{_BAR_WIDTH}" height="14" '
        f'cellpadding="0" cellspacing="0" border="0"><tr>{cells}</tr></table>'
    )
