"""The daily report as a mail for the shop itself: its charts are in it, as images that mail programs show without asking."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from typing import Any

from shop.notifications.kinds import REPORT
from shop.notifications.mail import address_of
from shop.notifications.message import Mail
from shop.pictures.board import charts, headline
from shop.pictures.chart import Chart
from shop.pictures.figures import Figures
from shop.pictures.png import png
from shop.plain import one_line
from shop.settings import Settings

_POLICY = SMTP.clone(cte_type="7bit")
_STYLE = "font-family:system-ui,-apple-system,Segoe UI,Roboto,sans-serif;color:#1f2937;background:#ffffff"


def report_payload(figures: Figures, steps: tuple[str, ...]) -> dict[str, Any]:
    """What the outbox keeps of a report: the mail is made of nothing else, so that it is the same whenever it is sent."""
    return {"figures": figures.model_dump(mode="json"), "steps": list(steps)}


def report_mail(day: str, payload: Mapping[str, Any], s: Settings, date: datetime, installation: str) -> Mail:
    """The mail of this day, to `REPORT_EMAIL`. The same for the same payload. Draws, so not for an event loop."""
    figures = Figures.model_validate(payload["figures"])
    drawn = charts(figures, payload["steps"])
    to, title = address_of("", s.report_email or s.support_email), f"{one_line(s.shop_name)}: orders of {one_line(day)}"
    mail = EmailMessage(_POLICY)
    mail["From"] = address_of(s.shop_name, s.shop_email)
    mail["To"] = to
    mail["Subject"] = title
    mail["Date"] = format_datetime(date)
    mail["Message-ID"] = f"<{'-'.join(filter(None, (REPORT, one_line(day), installation)))}@{s.shop_email.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n\n".join([title, headline(figures), *(chart.says for chart in drawn.values())]) + "\n")
    mail.add_alternative(_html(title, headline(figures), drawn), subtype="html")
    page = mail.get_payload()[1]  # type: ignore[index]
    assert isinstance(page, EmailMessage)
    for name, chart in drawn.items():
        page.add_related(png(chart), "image", "png", cid=f"<{name}>", filename=f"{name}.png", disposition="inline")
    _settle(mail)
    return Mail(s.shop_email, to.addr_spec, mail.as_bytes())


def _html(title: str, line: str, drawn: Mapping[str, Chart]) -> str:
    images = "".join(
        f'<p><img src="cid:{name}" alt="{escape(chart.says)}" width="{chart.width:g}" style="max-width:100%;height:auto"></p>'
        for name, chart in drawn.items()
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head><body style="{_STYLE}">'
        f"<h1>{escape(title)}</h1><p>{escape(line)}</p>{images}</body></html>\n"
    )


def _settle(mail: EmailMessage) -> None:
    """Boundaries that are not random: made of what is between them."""
    for place, part in enumerate(mail.walk()):
        if part.is_multipart():
            content = "".join(str(leaf.get_payload()) for leaf in part.walk() if not leaf.is_multipart())
            part.set_boundary(f"=_{place}{hashlib.sha256(content.encode()).hexdigest()[:32]}")
