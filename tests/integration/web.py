"""The web app, served by uvicorn in a thread of its own on a free port, and what is sent to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from deployments.web.app import create_app
from shop.payments.stripe.sdk import stripe
from shop.runtime.http_server import listen

KEY = "test-key-of-this-shop"
SECRET = "whsec_test_secret_1"


@contextmanager
def served() -> Iterator[httpx.Client]:
    """A client of the app, with a key. Settings are this process's."""
    with listen(0) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            end = time.monotonic() + 20
            while not server.started:
                assert thread.is_alive()
                assert time.monotonic() < end, "the web app does not start"
                time.sleep(0.005)
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
            ) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the web app does not stop"


def signed(body: str, *, secret: str = SECRET, ago: float = 0) -> dict[str, str]:
    """The headers with which Stripe would have sent it."""
    header = stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time() - ago))
    return {"Stripe-Signature": header, "Content-Type": "application/json"}


def event(event_id: str, kind: str, about: Mapping[str, Any]) -> str:
    """An event as Stripe sends it."""
    payload = {
        "id": event_id,
        "object": "event",
        "type": kind,
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": about},
    }
    return json.dumps(payload)


def about_payment(payment_id: str, order_id: str | None, installation: str | None = None) -> dict[str, Any]:
    """What such an event says of a payment; the amounts are wrong, because nothing may rely on them."""
    metadata = {"order_id": order_id} if order_id else {}
    metadata |= {"installation": installation} if installation else {}
    return {
        "id": payment_id,
        "object": "payment_intent",
        "amount": 1,
        "amount_received": 1,
        "currency": "usd",
        "metadata": metadata,
    }


def about_charge(payment_id: str, order_id: str | None) -> dict[str, Any]:
    return {
        **about_payment("ch_1", order_id),
        "object": "charge",
        "payment_intent": payment_id,
        "amount_refunded": 1,
    }


def about_dispute(dispute_id: str, payment_id: str, **more: Any) -> dict[str, Any]:
    dispute = {
        "id": dispute_id,
        "object": "dispute",
        "amount": 99_999,
        "currency": "usd",
        "created": int(time.time()) - 60,
    }
    dispute |= {
        "reason": "fraudulent",
        "status": "needs_response",
        "payment_intent": payment_id,
        "charge": "ch_1",
    }
    dispute |= {"evidence_details": {"due_by": int(time.time()) + 86_400 * 7, "has_evidence": False}}
    return {**dispute, "evidence": {"customer_name": "PLANTED"}, **more}


def send(web: httpx.Client, body: str, **options: Any) -> httpx.Response:
    """As Stripe does: without a key, with a signature."""
    return web.post(
        "/webhooks/stripe", content=body, headers={"Authorization": "", **signed(body, **options)}
    )
