"""Sends one message to one service through apprise, in its own process, whose time `shop.alerts.delivery`
limits.

A service can answer slowly or without end; apprise limits neither, and a waiting thread cannot be stopped.
Reads a JSON list (URL, title, body) and writes a JSON value: null, or the error. Imports nothing of the shop,
in order to start quickly.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from contextlib import redirect_stdout, suppress

from apprise import Apprise, AppriseAsset, LogCapture, NotifyFormat, NotifyType

_MEMORY_BYTES = 2**30
"""Limits the process's address space, in bytes."""


def client_for(url: str) -> Apprise | None:
    """Returns the apprise client of one service; None if apprise does not accept the URL."""
    logging.getLogger("apprise").propagate = False  # it may log parts of the URL
    client = Apprise(
        asset=AppriseAsset(app_id="order-saga", async_mode=False, http_redirects=False, secure_logging=True)
    )
    with LogCapture():  # type: ignore[no-untyped-call]
        return client if client.add(url) and len(client) == 1 else None


def send(url: str, title: str, body: str) -> str | None:
    """Sends the message. Returns None, or why it failed as far as apprise logs a reason (it returns none)."""
    if (client := client_for(url)) is None:
        return "apprise does not accept the URL"
    with LogCapture(level=logging.WARNING, fmt="%(message)s") as log:  # type: ignore[no-untyped-call]
        if client.notify(body, title, NotifyType.WARNING, NotifyFormat.TEXT):
            return None
        return " ".join(log.getvalue().split()) or "apprise reports a failure and no reason"


def main() -> None:
    with suppress(OSError, ValueError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    os.environ["NETRC"] = os.devnull  # only logins from the URL are sent
    with redirect_stdout(sys.stderr):
        failure = send(*json.load(sys.stdin))
    json.dump(failure, sys.stdout)


if __name__ == "__main__":
    main()
