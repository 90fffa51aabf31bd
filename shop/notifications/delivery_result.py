"""How the sending of one message ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from saga.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """`sent`; `later`: to be tried again; `unclear`: later, but it may have arrived; `refused`: for good; `untried`: there was no time."""

    what: Literal["sent", "later", "unclear", "refused", "untried"]
    error: str | None = None
    """Kept and shown to people: codes and names, never what the other side wrote, which may hold a customer's address."""
    pause: float = 0
    """Seconds that the other side asks for; the outbox's own pause may be longer."""


HANDING_OVER, POSTING = failpoint("handing a mail to the mail server"), failpoint("posting to the CRM")
DATA_SECONDS = 120
"""How long a mail server may think about a mail that it has: giving up too early would send it twice."""
SENT, UNTRIED = DeliveryResult("sent"), DeliveryResult("untried")
Tell = Callable[[int, DeliveryResult], Awaitable[bool]]
"""Is told how a message (by its number in the outbox) ended, at once; False: stop, for nothing can be noted any more."""
