"""Goods received over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from deployments.web.orders import BODY_PROBLEMS, DATABASE_SECONDS, ID_SCHEMA
from deployments.web.problems import ProblemError, Wrong, answers, pointer
from deployments.web.requests import read_json, require_key
from saga.connections import answered_within
from saga.errors import StepError
from shop.inventory.deliveries import DeliveredItem, DeliveryNote, DeliveryReceipt, read_delivery
from shop.inventory.errors import DeliveryConflict, InvalidDelivery, InventoryUnavailable, UnknownProducts
from shop.inventory.stock import receive

router = APIRouter(tags=["stock"], dependencies=[Depends(require_key)])


def _schema() -> dict[str, Any]:
    """Describes both spellings: several products, or one without `items`."""
    note, item = (
        model.model_json_schema(ref_template="#/components/schemas/{model}")
        for model in (DeliveryNote, DeliveredItem)
    )
    note.pop("$defs", None)
    # Pydantic does not describe the rules of ids.
    note["properties"]["reference"] |= {"pattern": ID_SCHEMA["pattern"], "maxLength": ID_SCHEMA["maxLength"]}
    item["properties"]["product_id"] |= {"pattern": ID_SCHEMA["pattern"], "maxLength": ID_SCHEMA["maxLength"]}
    note["properties"]["items"]["items"] = item
    shared = {name: value for name, value in note["properties"].items() if name != "items"}
    single = {**item, "title": "DeliveryOfOneProduct", "properties": {**shared, **item["properties"]}}
    return {"anyOf": [single, note]}


@router.post(
    "/stock/deliveries",
    status_code=HTTPStatus.CREATED,
    responses={
        HTTPStatus.OK: {"model": DeliveryReceipt, "description": "The same delivery was received before"},
        HTTPStatus.CREATED: {"model": DeliveryReceipt, "description": "The goods are in stock"},
        **BODY_PROBLEMS,
        **answers(HTTPStatus.BAD_GATEWAY),
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}},
    },
)
async def receive_delivery(request: Request, response: Response) -> DeliveryReceipt:
    """Records one delivery and adds its pieces to the stock. Sending it again is safe if it has a
    `reference`."""
    body = await read_json(request)
    try:
        delivery = read_delivery(body)
        with answered_within(DATABASE_SECONDS):
            (receipt,) = await receive([delivery], started_by="HTTP, with a key of ORDERS_API_KEY")
    except StepError as error:
        raise _problem(error) from None
    if receipt.status == "known":
        response.status_code = HTTPStatus.OK
        response.headers["Idempotent-Replayed"] = "true"
    return receipt


def _problem(error: StepError) -> ProblemError:
    kind = error.code.replace("_", "-")
    match error:
        case InvalidDelivery():
            wrong = [Wrong(detail=what, pointer=pointer(*place)) for place, what in error.problems]
            status, title = HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid delivery"
            return ProblemError(status, "nothing was received", kind=kind, title=title, errors=wrong)
        case UnknownProducts():
            wrong = [Wrong(detail=f"{product!r} is not in the catalogue") for product in error.product_ids]
            return ProblemError(
                HTTPStatus.CONFLICT, str(error), kind=kind, title="Unknown product", errors=wrong
            )
        case DeliveryConflict():
            return ProblemError(HTTPStatus.CONFLICT, str(error), kind=kind, title="Delivery conflict")
        case InventoryUnavailable():
            headers = {"Retry-After": str(round(error.retry_after or 5))}
            detail = f"{error}: the result is unknown. Send the same delivery, with its reference, again"
            return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind=kind, headers=headers)
    return ProblemError(HTTPStatus.BAD_GATEWAY, str(error), kind=kind)
