"""The page of one order: outcome, diagram, steps, money, links to its label and mails. No customer data."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from urllib.parse import urlencode

from saga.definition import Saga
from shop.notifications.maildir import find_mail
from shop.orders.page.diagram import order_diagram, state_words
from shop.orders.page.formatting import duration, for_markdown, markdown_table
from shop.orders.page.story import MailRow, OrderStory, StepView, step_views
from shop.orders.tries import EarlierTry
from shop.runtime.times import shown, shown_time
from shop.settings import Settings
from shop.values.money import show

_PLAIN = re.compile(r"[A-Z0-9]+(-[A-Z0-9]+)*")
_OTHER = re.compile(r"[^a-z0-9]+")
KEY = "saga-"
"""Prefix of the key of an order's page."""


def page_key(order_id: str) -> str:
    """Returns the key of the order's page: `saga-order-1001` for `ORDER-1001`. Lower case, digits and dashes;
    unique to the id: the key of an id with other characters contains a digest."""
    if len(order_id) <= 80 and _PLAIN.fullmatch(order_id):
        return KEY + order_id.lower()
    slug = _OTHER.sub("-", order_id.lower()).strip("-")[:60].rstrip("-")
    digest = hashlib.sha256(order_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{KEY}{slug}-{digest}" if slug else KEY + digest


def order_page(story: OrderStory, saga: Saga, s: Settings) -> str:
    """Returns the page in Markdown, for the Prefect UI. Blocks: looks for the label and the mails on disk."""
    amounts = [show(amount, story.currency) for amount in story.amounts.values()]
    parts = [
        f"# {for_markdown(story.order_id)}: {_end(story)}",
        *_reasons(story),
        f"```mermaid\n{order_diagram(story, saga)}```",
        "## Steps",
        _steps(story, saga),
        "## Money",
        markdown_table(("charged", "refunded", "at risk", "paid elsewhere"), [amounts]),
        *_details(story),
        *_earlier_tries(story),
        *_manual_actions(story),
        "## Label and mails",
        *(f"- {line}" for line in _documents(story, s)),
        f"\n{_when(story)}",
    ]
    return "\n\n".join(parts) + "\n"


def summary(story: OrderStory) -> str:
    """Returns the page in one line, for lists."""
    amounts = [f", {show(each, story.currency)} {name}" for name, each in story.amounts.items() if each]
    return f"Order {for_markdown(story.order_id)}: {_end(story)}{''.join(amounts)}"


def _end(story: OrderStory) -> str:
    return for_markdown(story.end) + (" (cancelled)" if story.cancelled else "")


def _reasons(story: OrderStory) -> Iterator[str]:
    if story.failing_step is not None:
        code = f" ({for_markdown(story.failure_code)})" if story.failure_code else ""
        yield f"Ended at **{for_markdown(story.failing_step)}**{code}:"
        reasons = "\n".join(f"- {for_markdown(reason)}" for reason in story.reasons[:20])
        yield reasons or "- no reason was recorded"


def _steps(story: OrderStory, saga: Saga) -> str:
    head = ("step", "kind", "status", "attempts", "duration", "compensation")
    return markdown_table(head, [_row(step) for step in step_views(story, saga)])


def _row(step: StepView) -> tuple[str, ...]:
    why = f": {step.error.replace('_', ' ')}" if step.error and step.state != "done" else ""
    status = f"{step.state}{why}"
    undo = f"{step.undo.name}: {', '.join(state_words(step.undo))}" if step.undo else ""
    return step.name, step.kind, status, str(step.attempts or ""), duration(step.seconds), undo


def _details(story: OrderStory) -> Iterator[str]:
    """Yields what was ordered, and how it is paid."""
    if (details := story.details) is None:
        return
    yield "## Order"
    yield markdown_table(("", ""), details.facts)
    rows = [(line.product, line.quantity, line.price, line.total) for line in details.lines]
    if details.more_lines:
        rows.append((f"and {details.more_lines:,} more lines", "", "", ""))
    rows += [(name, "", "", amount) for name, amount in details.sums]
    yield markdown_table(("item", "quantity", "price", "sum"), rows)


def _earlier_tries(story: OrderStory) -> Iterator[str]:
    if story.tries:
        yield "## Earlier tries"
        yield f"This is try {len(story.tries) + 1}. The amounts above are those of all tries."
        head = ("try", "outcome", "failed at", "why", "charged", "refunded", "ended", "retried by")
        yield markdown_table(head, [_try_row(each, story.currency) for each in story.tries])


def _try_row(each: EarlierTry, currency: str) -> tuple[str, ...]:
    return (
        str(each.number),
        each.outcome,
        each.failing_step or "",
        "; ".join(each.reasons),
        show(each.amount_charged, currency),
        show(each.amount_refunded, currency),
        shown(each.finished_at),
        each.requested_by or "",
    )


def _manual_actions(story: OrderStory) -> Iterator[str]:
    if story.review:
        yield "## Manual actions"
        head = ("when", "what", "who (as typed)", "started by", "amount", "reference")
        amounts = [show(row.amount, story.currency) if row.amount else "" for row in story.review]
        rows = [
            (row.at, row.action, row.by, row.started_by or "", amount, row.reference or "")
            for row, amount in zip(story.review, amounts, strict=True)
        ]
        yield markdown_table(head, rows)


def _documents(story: OrderStory, s: Settings) -> Iterator[str]:
    """Links at the web app; without one the paths, because the UI does not link files."""
    if story.tracking_number:
        yield f"label of parcel {for_markdown(story.tracking_number)}: {_where_is_label(story, s)}"
    for mail in story.mails:
        of_try = f" of try {mail.try_number}" if story.tries else ""
        yield f"mail *{for_markdown(mail.kind)}*{of_try}: {_where_is(mail, story.order_id, s)}"
    if not story.tracking_number and not story.mails:
        yield "none"


def _where_is_label(story: OrderStory, s: Settings) -> str:
    if story.returned:
        return "void, because the parcel was returned"
    if s.web.url:
        return f"[open it]({label_url(s.web.url, story.order_id)})"
    return f"written by order-saga label {for_markdown(shlex.quote(story.order_id))}"


def _where_is(mail: MailRow, order_id: str, s: Settings) -> str:
    if not mail.sent:
        return "not sent yet" + (f": {for_markdown(mail.error)}" if mail.error else "")
    how = "sent through the mail server" if s.smtp.url else "sent"
    if s.web.url:
        return f"{how}: [read it]({mail_url(s.web.url, order_id, mail.kind, mail.try_number)})"
    path = None if s.smtp.url else find_mail(s.mail_dir, order_id, mail.kind, mail.try_number)
    return f"`{path}`" if path else how


def _when(story: OrderStory) -> str:
    parts = [f"Submitted {shown(story.submitted_at)}"] if story.submitted_at else []
    if story.finished_at:
        parts.append(f"ended after {duration(story.seconds)}")
    if story.not_before and story.outcome is None:
        parts.append(f"continues at {shown_time(story.not_before)}")
    if story.takeovers:
        parts.append(f"taken over from another worker {story.takeovers} times")
    return ", ".join(parts)


LABEL, MAIL = "/documents/label", "/documents/mail"


def label_url(web_url: str, order_id: str) -> str:
    """Returns the link to the label. `web_url` is the web app's address as browsers reach it."""
    return _url(web_url, LABEL, id=order_id)


def mail_url(web_url: str, order_id: str, kind: str, try_number: int = 1) -> str:
    """Returns the link to the mail of this kind, about this try of the order."""
    query = {"try": str(try_number)} if try_number > 1 else {}
    return _url(web_url, MAIL, id=order_id, kind=kind, **query)


def _url(web_url: str, path: str, **query: str) -> str:
    return f"{web_url.rstrip('/')}{path}?{urlencode(query)}"
