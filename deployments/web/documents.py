"""Serves an order's label and mails to browsers, for the links on its page in the Prefect UI. Requires a
key, because they name the customer."""

from __future__ import annotations

import email
import email.policy
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import FileResponse, HTMLResponse

from deployments.web.keys import require_key_or_password
from deployments.web.problems import ProblemError, answers
from shop.notifications.kinds import Kind
from shop.notifications.maildir import find_mail
from shop.orders.names import MAX_ORDER_ID
from shop.orders.page.documents import LABEL, MAIL
from shop.settings import settings
from shop.shipping.labels.files import label_path

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
_A_PDF = {
    "content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}},
    "description": "the label",
}
_PDF: dict[int | str, dict[str, Any]] = {HTTPStatus.OK: _A_PDF}

router = APIRouter(tags=["documents"], dependencies=[Depends(require_key_or_password)])
OrderId = Annotated[
    str, Query(alias="id", min_length=1, max_length=MAX_ORDER_ID, description="the order's id")
]


@router.get(LABEL, response_class=FileResponse, responses={**_REFUSED, **_PDF})
def label(order_id: OrderId) -> Response:
    """Returns the parcel's label, 4 x 6 inches, if it has been printed."""
    path = label_path(settings().label_dir, order_id)
    if not _is_there(path):
        raise _missing("label")
    return FileResponse(
        path,
        media_type="application/pdf",
        headers={k: v for k, v in _HEADERS.items() if k != "Content-Security-Policy"},
    )


@router.get(MAIL, response_class=HTMLResponse, responses=_REFUSED)
def mail(order_id: OrderId, kind: Kind) -> Response:
    """Returns a mail as its reader sees it, if it went to the Maildir (no mail server is set)."""
    path = find_mail(settings().mail_dir, order_id, kind)
    if path is None or not _is_there(path):
        raise _missing("mail")
    parsed = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = parsed.get_body(("html", "plain"))
    if body is None:
        raise _missing("mail")
    media_type = f"{body.get_content_type()}; charset=utf-8"
    return Response(body.get_content(), headers=_HEADERS | {"Content-Type": media_type})


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _missing(what: str) -> ProblemError:
    detail = f"this order has no {what} in VAR_DIR of this machine"
    return ProblemError(HTTPStatus.NOT_FOUND, detail, kind="no-such-paper", title=f"No such {what}")
