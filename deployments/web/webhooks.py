"""The webhooks of Shopify, WooCommerce and Stripe: verify, map, store, and answer so that they keep sending.

Shops disable a webhook that fails too often, and repeat what fails. So everything that no repetition can help
is answered with 200 and says what became of it: also a rejected order, which is stored, and a change that
cannot be applied, which is recorded with the order. Stripe's events are stored and answered within
milliseconds; a flow makes the calls to Stripe.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.web.orders import DATABASE_SECONDS
from deployments.web.problems import ProblemError, answers, no_secret
from deployments.web.requests import parse_json, read_body
from saga.clock import database_time
from saga.connections import answered_within
from shop.orders.errors import UnusableOrder
from shop.orders.formats.known import map_order
from shop.payments.events import inbox
from shop.review.errors import OrderHeld
from shop.review.shop_updates import MESSAGE, Taken, delete, take
from shop.runtime.extras import needs_extra
from shop.settings import settings
from shop.text.card_numbers import cut

router = APIRouter(tags=["webhooks"])
log = logging.getLogger(__name__)
_SHOPIFY = frozenset({"orders/create", "orders/paid", "orders/updated", "orders/edited", "orders/cancelled"})
_WOOCOMMERCE = frozenset({"order.created", "order.updated", "order.restored"})
_ID = re.compile(r"[0-9]{1,20}")
_PING = re.compile(rb"webhook_id=\d{1,20}")
_ANSWERS = answers(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def _body(description: str) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    }


_Short = Annotated[str, Header(max_length=255)]


@router.post(
    "/orders/shopify",
    responses=_ANSWERS,
    openapi_extra=_body(
        "An order, as the shop sends it: https://shopify.dev/docs/api/admin-rest/latest/resources/order"
    ),
)
async def shopify_webhook(
    request: Request,
    x_shopify_topic: _Short = "",
    x_shopify_hmac_sha256: _Short = "",
    x_shopify_shop_domain: _Short = "",
) -> Taken:
    """Takes one of Shopify's messages about an order. After 200 it is stored, or of no interest."""
    secrets = _required(settings().shopify.webhook_secrets, "SHOPIFY")
    body = await read_body(request)
    _check_signature(body, x_shopify_hmac_sha256, secrets, "SHOPIFY")
    order = _object(parse_json(body))
    shop = cut(f"Shopify {x_shopify_shop_domain}".strip(), 200)
    if x_shopify_topic == "orders/delete":
        return await _deleted(settings().shopify.order_prefix, order, shop, x_shopify_topic)
    if x_shopify_topic not in _SHOPIFY:
        return Taken(status="ignored", reasons=["only the topics of orders are used"])
    return await _take(request, "shopify", order, shop, x_shopify_topic)


@router.post(
    "/orders/woocommerce",
    responses=_ANSWERS,
    openapi_extra=_body(
        "An order, as the shop sends it: https://woocommerce.github.io/woocommerce-rest-api-docs/#order-properties"
    ),
)
async def woocommerce_webhook(
    request: Request,
    x_wc_webhook_topic: _Short = "",
    x_wc_webhook_signature: _Short = "",
    x_wc_webhook_source: _Short = "",
) -> Taken:
    """Takes one of WooCommerce's messages about an order, or the ping that it sends when its webhook is
    saved. After 200 it is stored, or of no interest."""
    secrets = _required(settings().woocommerce.webhook_secrets, "WOOCOMMERCE")
    body = await read_body(request)
    if not x_wc_webhook_signature and _PING.fullmatch(body):
        return Taken(status="ignored", reasons=["the webhook is set up"])
    _check_signature(body, x_wc_webhook_signature, secrets, "WOOCOMMERCE")
    order = _object(parse_json(body))
    shop = cut(f"WooCommerce {x_wc_webhook_source}".strip(), 200)
    if x_wc_webhook_topic == "order.deleted":
        options = settings().woocommerce.options
        return await _deleted(options.prefix_of(x_wc_webhook_source), order, shop, x_wc_webhook_topic)
    if x_wc_webhook_topic not in _WOOCOMMERCE:
        return Taken(status="ignored", reasons=["only the topics of orders are used"])
    return await _take(request, "woocommerce", order, shop, x_wc_webhook_topic)


async def _take(request: Request, name: str, order: Mapping[str, Any], shop: str, topic: str) -> Taken:
    try:
        mapped = map_order(name, order)
    except UnusableOrder as error:
        return Taken(status="ignored", reasons=error.reasons())
    try:
        with answered_within(DATABASE_SECONDS):
            taken = await take(mapped, shop=shop, message=f"{MESSAGE}{topic}")
    except OrderHeld as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE, str(error), kind=error.code, title="Order held"
        ) from None
    if taken.status in ("accepted", "rejected"):
        request.app.state.pending.ring()
    if taken.status == "rejected":
        why = cut("; ".join(taken.reasons), 500)
        log.warning("order %s of %s is rejected: %s", taken.order_id, shop, why)
    return taken


async def _deleted(prefix: str, order: Mapping[str, Any], shop: str, topic: str) -> Taken:
    """Takes a deletion. Its body is the id alone: the topic is not signed, and that of another message could
    be replaced by this one."""
    if set(order) != {"id"} or not _ID.fullmatch(number := _written(order["id"])):
        return Taken(status="ignored", reasons=["the body of a deletion is the order's id, and nothing else"])
    with answered_within(DATABASE_SECONDS):
        return await delete(f"{prefix}{number}", shop=shop, message=f"{MESSAGE}{topic}")


def _written(number: object) -> str:
    is_short = isinstance(number, str) or (type(number) is int and 0 < number < 10**20)
    return str(number) if is_short else ""


def _required(secrets: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Requires a secret. Raises 503: the shop sends the message again once one is set."""
    if not secrets:
        raise no_secret(f"set {name}_WEBHOOK_SECRET to the secret of the webhook")
    return secrets


def _check_signature(body: bytes, signature: str, secrets: tuple[str, ...], name: str) -> None:
    """Requires a signature that is made with one of the secrets. Raises 401."""
    given, is_signed = signature.encode("utf-8", "replace"), False
    for secret in secrets:
        right = base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest())
        is_signed |= hmac.compare_digest(right, given)
    if not is_signed:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            f"the signature fits no secret of {name}_WEBHOOK_SECRET",
            kind="bad-signature",
            title="Bad signature",
        )


def _object(parsed: Any) -> Mapping[str, Any]:
    if not isinstance(parsed, dict):
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, "the body is no JSON object", kind="not-json", title="Not JSON"
        )
    return parsed


class StripeReceived(BaseModel):
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
    openapi_extra=_body("An event, as Stripe sends it: https://docs.stripe.com/api/events/object"),
)
async def stripe_webhook(
    request: Request, signature: Annotated[str, Header(alias="Stripe-Signature")]
) -> StripeReceived:
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
        return StripeReceived(received="ignored")
    with answered_within(DATABASE_SECONDS):
        stored = await inbox.store(event)
    if stored.woke:
        request.app.state.pending.ring()
    if stored.due:
        request.app.state.events.ring()
    return StripeReceived(received="stored" if stored.new else "known")
