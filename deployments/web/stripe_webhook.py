"""Stripe's webhook: verifies, stores and answers within milliseconds. A flow makes the calls to Stripe."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.web.bodies import read_body
from deployments.web.orders import DATABASE_SECONDS
from deployments.web.problems import ProblemError, answers, no_secret
from saga.clock import database_time
from saga.connections import answered_within
from shop.payments.events import inbox
from shop.runtime.extras import needs_extra
from shop.settings import settings

router = APIRouter(tags=["webhooks"])
_SIGNATURE = "Stripe-Signature"
_BODY = {
    "requestBody": {
        "required": True,
        "description": "An event, as Stripe sends it: https://docs.stripe.com/api/events/object",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


class Received(BaseModel):
    """Shown by Stripe in its dashboard."""

    model_config = ConfigDict(frozen=True)

    received: str = Field(
        description="`stored`, `known` (received before) or `ignored` (of a kind that is not used here)"
    )


@router.post(
    "/webhooks/stripe",
    responses=answers(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
    openapi_extra=_BODY,
)
async def stripe_webhook(request: Request, signature: Annotated[str, Header(alias=_SIGNATURE)]) -> Received:
    """Accepts an event that Stripe has signed. After 200 the event cannot be lost; after any other status
    Stripe sends it again."""
    s = settings()
    if s.payments.gateway != "stripe" or not s.stripe.webhook_secrets:
        how = (
            "set PAYMENT_GATEWAY=stripe, "
            "and STRIPE_WEBHOOK_SECRET to the endpoint's signing secret (whsec_...)"
        )
        raise no_secret(how)
    with needs_extra("stripe", "PAYMENT_GATEWAY=stripe"):
        from shop.payments.stripe.event import (  # Stripe's SDK takes a while to load
            BadSignature,
            UnreadableEvent,
            check_age,
            read_signed,
        )
    body = await read_body(request)
    try:
        event = read_signed(body, signature, s.stripe.webhook_secrets)
        with answered_within(DATABASE_SECONDS):
            check_age(signature, await database_time())
    except BadSignature as error:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, str(error), kind="bad-signature", title="Bad signature"
        ) from None
    except UnreadableEvent as error:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, str(error), kind="unreadable-event", title="Unreadable event"
        ) from None
    if event is None:
        return Received(received="ignored")
    with answered_within(DATABASE_SECONDS):
        stored = await inbox.store(event)
    if stored.woke:
        request.app.state.pending.ring()
    if stored.due:
        request.app.state.events.ring()
    return Received(received="stored" if stored.new else "known")
