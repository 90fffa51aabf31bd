"""The result of delivering one message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from saga.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """A result: `sent`; `later`: to be retried; `unclear`: to be retried, but it may have arrived; `refused`:
    permanently; `untried`: not attempted for lack of time."""

    what: Literal["sent", "later", "unclear", "refused", "untried"]
    error: str | None = None
    """Stored and shown to people: codes and names, never the receiver's text, which may contain a customer's
    address."""
    pause: float = 0
    """The pause that the receiver asks for, in seconds. The outbox's own may be longer."""


HANDING_OVER, POSTING = failpoint("handing a mail to the mail server"), failpoint("posting to the CRM")
DATA_SECONDS = 120
"""Timeout of the mail server's answer after it received a mail: a short one would send mails twice."""
SENT, UNTRIED = DeliveryResult("sent"), DeliveryResult("untried")
OnResult = Callable[[int, DeliveryResult], Awaitable[bool]]
"""Receives the result of a message (by its number in the outbox) immediately. Returns False if results cannot
be recorded any more, so that the sender stops."""
