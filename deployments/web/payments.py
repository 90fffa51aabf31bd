"""The payment of an order over HTTP, for a page on which the customer answers the bank (3-D Secure)."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Depends, Response

from deployments.web.keys import require_key
from deployments.web.order_parts import PROBLEMS, PartRoute, known_id, no_such_order
from deployments.web.orders import DATABASE_SECONDS
from deployments.web.problems import ProblemError
from saga.connections import answered_within
from shop.payments.customer import OrderPayment, read_payment
from shop.payments.errors import PaymentError
from shop.payments.gateways import gateway
from shop.runtime.extras import MissingExtra

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)
_GATEWAY_SECONDS = 6.0
"""Limits the wait for the gateway, in seconds: then the answer is 503."""


@router.get("/orders/{order_id:path}/payment", responses=PROBLEMS)
async def payment(order_id: str, response: Response) -> OrderPayment:
    """Returns the state of the order's payment; while the bank waits for the customer, with the gateway's
    client secret, which is read from the gateway now."""
    usable = known_id(order_id)
    try:
        with answered_within(DATABASE_SECONDS + _GATEWAY_SECONDS):
            found = await read_payment(usable, gateway(), seconds=_GATEWAY_SECONDS)
    except PaymentError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the payment gateway does not say how the payment is ({error.code}): try again",
            kind="payment-gateway",
            headers={"Retry-After": "5"},
        ) from None
    except MissingExtra as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), kind="missing-extra") from None
    if found is None:
        raise no_such_order()
    response.headers["Cache-Control"] = "no-store"
    return found
