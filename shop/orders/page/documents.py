"""Links to an order's label and mails at the web app, which requires a key. They contain no customer data."""

from __future__ import annotations

from urllib.parse import urlencode

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
