"""Telling the CRM: webhooks as the Standard Webhooks specification has them, at least once.

The id is made of the installation, the order and the kind: a receiver that has seen it has seen the message. The signature is made when
it is sent, so that one that waited for a day is not too old.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import ssl
import time
from collections import deque
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
from shop.notifications.delivery_result import POSTING, SENT, UNTRIED, DeliveryResult, Tell
from shop.notifications.kinds import Kind, what_it_is

log = logging.getLogger(__name__)

TYPES = {
    Kind.CONFIRMATION: "order.confirmed",
    Kind.REFUND: "order.refunded",
    Kind.PAYMENT_FAILED: "order.payment_failed",
    Kind.INCOMPLETE: "order.incomplete",
    Kind.OUT_OF_STOCK: "order.out_of_stock",
}
_CONNECTIONS = 4
_MOST_BYTES = 65_536
"""An answer's body is read so far, for the sake of the connection; what it says does not count."""
_LONGEST_PAUSE = 24 * 3600


@dataclass(frozen=True, slots=True)
class Webhook:
    """A message for the CRM."""

    id: str
    body: bytes


def webhook(order_id: str, kind: Kind, when: datetime, data: Mapping[str, Any], installation: str) -> Webhook:
    """The same for the same order and kind of an installation. `data`: what the CRM may know; never card data. `installation`: empty for
    what an earlier version made due, which must keep its id."""
    digest = hashlib.sha256(what_it_is(order_id, kind, installation).encode()).hexdigest()[:32]
    shop = {"installation": installation} if installation else {}
    body = {"type": TYPES[kind], "timestamp": when.astimezone(UTC).isoformat(), "data": {"order_id": order_id, **shop, **data}}
    return Webhook(f"{kind}_{digest}", orjson.dumps(body))


def signed(hook: Webhook, key: bytes, at: int) -> dict[str, str]:
    """The headers, with the signature of id, time (seconds since 1970) and body."""
    signature = hmac.new(key, f"{hook.id}.{at}.".encode() + hook.body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "order-saga",
        "webhook-id": hook.id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


class Receiver:
    """The CRM's address. `seconds`: for one message, all in all. `clock`: what the signatures say, and the CRM compares with its own."""

    def __init__(self, url: str, key: bytes, *, seconds: float, clock: Clock) -> None:
        self._url, self._key, self._seconds, self._clock = url, key, seconds, clock
        self._trouble: DeliveryResult | None = None
        self._stopped = False

    async def send(self, hooks: Sequence[tuple[int, Webhook]], tell: Tell, *, until: float) -> None:
        """Tells of each message how it ended. After `until` (`time.monotonic()`) none is begun, nor once the CRM has asked for a pause."""
        waiting = deque(hooks)
        verify = await asyncio.to_thread(_certificates) if self._url.startswith("https:") else False
        async with httpx.AsyncClient(
            timeout=self._seconds, follow_redirects=False, verify=verify, limits=httpx.Limits(max_connections=_CONNECTIONS)
        ) as client:
            lines = [asyncio.create_task(self._line(client, waiting, tell, until)) for _ in range(min(_CONNECTIONS, len(hooks)))]
            try:
                await asyncio.gather(*lines)
            finally:
                for line in lines:
                    line.cancel()
                await asyncio.gather(*lines, return_exceptions=True)
        for number, _ in waiting:
            await tell(number, self._trouble or UNTRIED)

    async def _line(self, client: httpx.AsyncClient, waiting: deque[tuple[int, Webhook]], tell: Tell, until: float) -> None:
        while waiting and self._trouble is None and not self._stopped and time.monotonic() < until:
            number, hook = waiting.popleft()
            end = await self._post(client, hook)
            self._stopped |= not await tell(number, end)

    async def _post(self, client: httpx.AsyncClient, hook: Webhook) -> DeliveryResult:
        headers = signed(hook, self._key, int(self._clock.now().timestamp()))
        try:
            async with asyncio.timeout(self._seconds):
                with POSTING:
                    answer = await post(client, self._url, hook.body, headers)
        except Exception as error:  # noqa: BLE001  (an answer can break the client in many ways; the others must not wait for that)
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                self._trouble = DeliveryResult("later", f"the CRM (CRM_WEBHOOK_URL) cannot be reached ({type(error).__name__})")
                return self._trouble
            return DeliveryResult("later", f"no answer from the CRM ({type(error).__name__})")
        if answer.is_success:
            return SENT
        if answer.status_code == HTTPStatus.GONE:
            return DeliveryResult("refused", "the CRM says that there is nobody any more (410): look at CRM_WEBHOOK_URL")
        end = DeliveryResult("later", f"the CRM answered {answer.status_code}", _pause(answer, self._clock.now()))
        if end.pause:
            self._trouble = end
        return end


async def post(client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
    """The answer to a webhook, of which no more than `_MOST_BYTES` are read."""
    async with client.stream("POST", url, content=body, headers=headers) as answer:
        read = 0
        async for part in answer.aiter_raw():
            read += len(part)
            if read > _MOST_BYTES:
                break
    return answer


def _pause(answer: httpx.Response, now: datetime) -> float:
    """What `Retry-After` asks for, in seconds or as a date; 0 if it says nothing that makes sense."""
    given = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(given) if given.isdecimal() else (parsedate_to_datetime(given) - now).total_seconds()
    except (ValueError, TypeError):
        return 0
    return min(max(seconds, 0), _LONGEST_PAUSE)


@lru_cache
def _certificates() -> ssl.SSLContext:
    """Loading them takes a tenth of a second."""
    return httpx.create_ssl_context()
