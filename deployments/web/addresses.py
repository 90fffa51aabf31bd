"""Changes the address of orders over HTTP, before they are shipped."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from deployments.web.keys import require_key
from deployments.web.order_parts import (
    BODY_PROBLEMS,
    PROBLEMS,
    PartRoute,
    Words,
    body_of,
    invalid,
    known_id,
    no_such_order,
    read_model,
)
from deployments.web.orders import DATABASE_SECONDS, ID_SCHEMA
from deployments.web.problems import ProblemError, Wrong, pointer
from saga.database import retry_while_database_down
from shop.orders.parts import ShippingInfo
from shop.orders.rules import MAX_TEXT
from shop.review.address import AddressReceipt, change_address
from shop.review.errors import AddressInvalid, AddressSettled, OrderHeld, OrderUnknown
from shop.values import countries

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)
_HELD_SECONDS = 3.0
"""Limits the wait for a worker that holds the order, in seconds."""


class NewAddress(BaseModel):
    """The whole new address, and who changes it."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    shipping_info: dict[str, Any] = Field(description="as in an order: it replaces the former one")
    changed_by: Words = Field(description="stored with the order", examples=["ann"])
    reason: Words | None = Field(default=None, description="stored with the order; no card data")


_CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f"
"""Characters that intake removes from texts."""


def _body() -> dict[str, Any]:
    """Describes the body with the rules of addresses, which the model leaves to validation."""
    body, address = body_of(NewAddress), ShippingInfo.model_json_schema()
    text = {"type": "string", "maxLength": MAX_TEXT, "pattern": rf"^[^{_CONTROLS}]*$"}
    address["properties"] = {name: {**text} for name in address["properties"]}
    for name in ("address", "city"):
        address["properties"][name]["pattern"] = ID_SCHEMA["pattern"]
    address["properties"]["country"] = {"enum": sorted(countries.codes())}
    schema = body["requestBody"]["content"]["application/json"]["schema"]
    schema["properties"]["shipping_info"] = {**address, "additionalProperties": False}
    return body


@router.put(
    "/orders/{order_id:path}/shipping-address",
    responses={**PROBLEMS, **BODY_PROBLEMS},
    openapi_extra=_body(),
)
async def put_address(order_id: str, request: Request, response: Response) -> AddressReceipt:
    """Replaces the address of an order whose shipping has not begun. The same again changes nothing."""
    given, usable = await read_model(request, NewAddress), known_id(order_id)
    try:
        receipt = await retry_while_database_down(
            lambda: change_address(
                usable,
                given.shipping_info,
                changed_by=given.changed_by,
                reason=given.reason,
                started_by="the web app",
                wait_seconds=_HELD_SECONDS,
            ),
            seconds=DATABASE_SECONDS,
        )
    except OrderUnknown:
        raise no_such_order() from None
    except AddressInvalid as error:
        raise invalid(
            [
                Wrong(
                    detail=f"got {each.given}, expected {each.expected}",
                    pointer=pointer(*each.place.split(".")),
                )
                for each in error.problems
            ]
        ) from None
    except AddressSettled as error:
        raise ProblemError(
            HTTPStatus.CONFLICT, str(error), kind="address-settled", title="The address is settled"
        ) from None
    except OrderHeld as error:
        headers = {"Retry-After": "2"}
        raise ProblemError(
            HTTPStatus.CONFLICT, str(error), kind="order-held", title="A worker has it", headers=headers
        ) from None
    response.headers["Cache-Control"] = "no-store"
    return receipt
