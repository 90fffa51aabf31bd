"""Where a browser finds an order's label and mails: addresses at the web app, which asks for a key; they say nothing of the customer."""

from __future__ import annotations

from urllib.parse import urlencode

LABEL, MAIL = "/papers/label", "/papers/mail"


def label_url(web_url: str, order_id: str) -> str:
    """`web_url` is the web app's address, as people reach it."""
    return _url(web_url, LABEL, id=order_id)


def mail_url(web_url: str, order_id: str, kind: str) -> str:
    """The same for a mail of this kind."""
    return _url(web_url, MAIL, id=order_id, kind=kind)


def _url(web_url: str, path: str, **query: str) -> str:
    return f"{web_url.rstrip('/')}{path}?{urlencode(query)}"
