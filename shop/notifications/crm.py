"""Webhooks to the CRM according to the Standard Webhooks specification, delivered at least once.

The id is derived from installation, order and kind, so that receivers can deduplicate messages. The signature
is created on sending, so that it is not too old after a delay.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import httpx
import orjson

from saga.clock import Clock
from shop.notifications.delivery_log import POSTING, SENT, Batch, DeliveryResult, OnResult
from shop.notifications.kinds import Kind, identity

log = logging.getLogger(__name__)

TYPES = {
    Kind.CONFIRMATION: "order.confirmed",
    Kind.REFUND: "order.refunded",
    Kind.PAYMENT_FAILED: "order.payment_failed",
    Kind.INCOMPLETE: "order.incomplete",
    Kind.OUT_OF_STOCK: "order.out_of_stock",
    Kind.AWAITING_PAYMENT: "order.awaiting_payment",
}
_CONNECTIONS = 4
"""Limits the simultaneous requests to the CRM."""
_MOST_BYTES = 65_536
"""Limits what is read of an answer's body. It is read only to keep the connection usable; its content is
ignored."""
_LONGEST_PAUSE = 24 * 3600
"""Limits the CRM's `Retry-After`, in seconds."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A message for the CRM."""

    id: str
    body: bytes


def webhook(  # noqa: PLR0917
    order_id: str,
    kind: Kind,
    when: datetime,
    data: Mapping[str, Any],
    installation: str,
    try_number: int = 1,
) -> Webhook:
    """Returns the webhook: always the same id for the same installation, order, try and kind. `data` is what
    the CRM may know, never card data. `installation` is empty for messages of an earlier version, which must
    keep their ids."""
    digest = hashlib.sha256(identity(order_id, kind, installation, try_number).encode()).hexdigest()[:32]
    shop: dict[str, Any] = {"installation": installation} if installation else {}
    if try_number > 1:
        shop["try"] = try_number
    body = {
        "type": TYPES[kind],
        "timestamp": when.astimezone(UTC).isoformat(),
        "data": {"order_id": order_id, **shop, **data},
    }
    return Webhook(f"{kind}_{digest}", orjson.dumps(body))


def signed(hook: Webhook, key: bytes, at: int) -> dict[str, str]:
    """Returns the headers, with the signature of id, time (seconds since 1970) and body."""
    signature = hmac.new(key, f"{hook.id}.{at}.".encode() + hook.body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "order-saga",
        "webhook-id": hook.id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


class Receiver:
    """The CRM's webhook endpoint. `seconds` limits the total time of one message. `clock` provides the time
    in the signatures, which the CRM compares with its own."""

    def __init__(self, url: str, key: bytes, *, seconds: float, clock: Clock) -> None:
        self._url, self._key, self._seconds, self._clock = url, key, seconds, clock

    async def send(self, hooks: Sequence[tuple[int, Webhook]], on_result: OnResult, *, until: float) -> None:
        """Sends the messages and reports each result. Starts none after `until` (`time.monotonic()`), nor
        after the CRM has asked for a pause."""
        verify = await asyncio.to_thread(_certificates) if self._url.startswith("https:") else False
        batch = Batch(hooks, on_result, until=until)
        async with httpx.AsyncClient(
            timeout=self._seconds,
            follow_redirects=False,
            verify=verify,
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        ) as client:

            async def send(hook: Webhook) -> DeliveryResult:
                result, concerns_all = await self._post(client, hook)
                if concerns_all:
                    batch.failure = result
                return result

            await batch.work(lambda: batch.send_all(send), _CONNECTIONS)

    async def _post(self, client: httpx.AsyncClient, hook: Webhook) -> tuple[DeliveryResult, bool]:
        """Returns the result, and whether no other message can be sent now either."""
        headers = signed(hook, self._key, int(self._clock.now().timestamp()))
        try:
            async with asyncio.timeout(self._seconds):
                with POSTING:
                    answer = await post(client, self._url, hook.body, headers)
        except Exception as error:  # noqa: BLE001  (an invalid answer can raise many exceptions in the client)
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                unreachable = f"the CRM (CRM_WEBHOOK_URL) cannot be reached ({type(error).__name__})"
                return DeliveryResult("later", unreachable), True
            return DeliveryResult("later", f"no answer from the CRM ({type(error).__name__})"), False
        if answer.is_success:
            return SENT, False
        if answer.status_code == HTTPStatus.GONE:
            gone = "the CRM's endpoint does not exist any more (410): correct CRM_WEBHOOK_URL"
            return DeliveryResult("refused", gone), False
        pause = _pause(answer, self._clock.now())
        return DeliveryResult("later", f"the CRM answered {answer.status_code}", pause), pause > 0


async def post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]
) -> httpx.Response:
    """Posts a webhook and returns the answer. Reads at most `_MOST_BYTES` of its body."""
    async with client.stream("POST", url, content=body, headers=headers) as answer:
        read = 0
        async for part in answer.aiter_raw():
            read += len(part)
            if read > _MOST_BYTES:
                break
    return answer


def _pause(answer: httpx.Response, now: datetime) -> float:
    """Returns the pause in `Retry-After` (seconds or a date), in seconds; 0 if it is missing or invalid."""
    given = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(given) if given.isdecimal() else (parsedate_to_datetime(given) - now).total_seconds()
    except (ValueError, TypeError):
        return 0
    return min(max(seconds, 0), _LONGEST_PAUSE)


@lru_cache
def _certificates() -> ssl.SSLContext:
    """Returns the system's certificates, cached: loading them takes a tenth of a second."""
    return httpx.create_ssl_context()
