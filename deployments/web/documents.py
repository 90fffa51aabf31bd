"""Serves an order's label and mails to browsers, for the links on its page in the Prefect UI. Requires a
key, because they name the customer."""

from __future__ import annotations

import asyncio
import email
import email.policy
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse

from deployments.web.problems import ProblemError, answers
from deployments.web.requests import require_key_or_password
from shop.notifications.kinds import Kind
from shop.notifications.stored import MailGone, NoMail, find_sent_mail
from shop.orders.names import MAX_ORDER_ID
from shop.orders.page.page import LABEL, MAIL
from shop.orders.tries import MOST_TRIES
from shop.shipping.labels.content import LabelFormat
from shop.shipping.labels.stored import LabelGone, LabelUnavailable, NoLabel, find_label

_REFUSED = answers(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Mails escape what customers typed; should that ever fail, this prevents execution and loading.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
}
_A_LABEL: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {
        "content": {
            each.media_type: {"schema": {"type": "string", "format": "binary"}} for each in LabelFormat
        },
        "description": "the label",
    }
}
_drawing = ThreadPoolExecutor(1, thread_name_prefix="label")
"""Draws one label at a time, so that many requests do not take the whole process's time."""

router = APIRouter(tags=["documents"], dependencies=[Depends(require_key_or_password)])
OrderId = Annotated[
    str, Query(alias="id", min_length=1, max_length=MAX_ORDER_ID, description="the order's id")
]


@router.get(LABEL, response_class=Response, responses={**_REFUSED, **answers(HTTPStatus.GONE), **_A_LABEL})
async def label(
    order_id: OrderId,
    label_format: Annotated[LabelFormat, Query(alias="format")] = LabelFormat.PDF,
    dots_per_inch: Annotated[
        Literal["203", "300"], Query(alias="dpi", description="the label printer's resolution, for ZPL")
    ] = "203",
) -> Response:
    """Returns the parcel's label, 4 x 6 inches: a PDF, or ZPL for label printers."""
    try:
        found = await find_label(order_id, keep=True)
        made = await asyncio.get_running_loop().run_in_executor(
            _drawing, found.render, label_format, int(dots_per_inch)
        )
    except LabelGone as error:
        raise _missing("label", str(error), HTTPStatus.GONE) from None
    except LabelUnavailable as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
    except NoLabel as error:
        raise _missing("label", str(error)) from None
    headers = {k: v for k, v in _HEADERS.items() if k != "Content-Security-Policy"}
    return Response(made, media_type=label_format.media_type, headers=headers)


@router.get(MAIL, response_class=HTMLResponse, responses=_REFUSED | answers(HTTPStatus.GONE))
async def mail(
    order_id: OrderId,
    kind: Kind,
    try_number: Annotated[
        int, Query(alias="try", ge=1, le=MOST_TRIES, description="the order's try that the mail is about")
    ] = 1,
) -> Response:
    """Returns a mail that was sent, as its reader sees it."""
    try:
        sent = await find_sent_mail(order_id, kind, try_number)
    except MailGone as error:
        raise _missing("mail", str(error), HTTPStatus.GONE) from None
    except NoMail as error:
        raise _missing("mail", str(error)) from None
    body = email.message_from_bytes(sent, policy=email.policy.default).get_body(("html", "plain"))
    if body is None:
        raise _missing("mail", "this mail has no text")
    media_type = f"{body.get_content_type()}; charset=utf-8"
    return Response(body.get_content(), headers=_HEADERS | {"Content-Type": media_type})


def _missing(what: str, detail: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> ProblemError:
    return ProblemError(status, detail, kind="no-such-paper", title=f"No such {what}")
