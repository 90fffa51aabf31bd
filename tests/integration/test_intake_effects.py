"""What an order's fields come to: what is charged, what leaves the shelf,
where the parcel goes; also of orders of the version before."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.database import transaction
from shop.orders import intake
from shop.orders.order import EXAMPLE, Order
from shop.orders.outcomes import OrderOutcome, Outcome
from tests.integration.domain import Shop
from tests.integration.world import World, an_order

pytest_plugins = ["tests.integration.domain_fixtures"]


def without(order: dict[str, Any], *path: str) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(order))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return copy


def renamed(
    order: dict[str, Any], name: str, other: str, part: str | None = None, **more: Any
) -> dict[str, Any]:
    copy = without(order, *([part] if part else []), name)
    (copy[part] if part else copy)[other] = (order[part] if part else order)[name]
    return {**copy, **more}


def in_kwd(total: str) -> dict[str, Any]:
    return {
        "currency": "KWD",
        "items": [{"product_id": "PROD-001", "quantity": 1, "price": "5.120"}],
        "total_amount": total,
    }


BAD: dict[str, tuple[Any, str]] = {
    "currency of another name": (
        lambda o: renamed(o, "currency", "currency_code"),
        "currency_code: got a field of another name, expected currency",
    ),
    "no currency": (lambda o: without(o, "currency"), "currency: got nothing, expected a value"),
    "two currencies": (
        lambda o: {**o, "currencyCode": "JPY"},
        "currencyCode: got a field of another name, expected currency",
    ),
    "country of another name": (
        lambda o: renamed(o, "country", "country_code", "shipping_info"),
        "shipping_info.country_code: got a field of another name, expected shipping_info.country",
    ),
    "no country": (
        lambda o: without(o, "shipping_info", "country"),
        "shipping_info.country: got nothing, expected a value",
    ),
    "zip of another name": (
        lambda o: renamed(o, "zip", "postcode", "shipping_info"),
        "shipping_info.postcode: got a field of another name, expected shipping_info.zip",
    ),
    **{
        country: (
            lambda o, country=country: {**o, "shipping_info": {**o["shipping_info"], "country": country}},
            "shipping_info.country: got text of 2 characters, expected an ISO 3166 code of two letters",
        )
        for country in ("UK", "XX", "ZZ")
    },
    "two cents too much": (
        lambda o: {**o, "total_amount": "1000.01"},
        "total_amount: got 1000.01, expected 999.99",
    ),
    "nine fils too much": (lambda o: {**o, **in_kwd("5.129")}, "total_amount: got 5.129, expected 5.12"),
    "true pieces": (
        lambda o: {**o, "items": [{**o["items"][0], "quantity": True}]},
        "items[0].quantity: got True, expected a whole number",
    ),
    "a card number in its field": (
        lambda o: {**o, "payment_info": {**o["payment_info"], "number": "4242 4242 4242 4242"}},
        "payment_info.number: got (removed)",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_invalid_order_moves_nothing(saga: World, unique: str, case: str) -> None:
    change, reason = BAD[case]
    order = change(an_order(f"BAD-{unique}"))
    known: OrderOutcome = await (await process_order(order, return_state=True)).aresult()
    assert known.outcome is Outcome.REJECTED
    assert any(each.startswith(reason) for each in known.reasons), known.reasons
    assert saga.ledger(order["id"]) == []
    assert saga.stock("PROD-001") == (100, 0)
    assert saga.shipments(order["id"]) == 0


@pytest.mark.parametrize(
    ("currency", "total", "units"),
    [
        ("VND", "1250000", 1_250_000),
        ("IDR", "16000000", 1_600_000_000),
        ("KRW", "2000000", 2_000_000),
        ("XCG", "12.34", 1_234),
        ("KWD", "5.129", 5_129),
        ("JPY", "5900", 5_900),
    ],
)
async def test_any_currency_is_charged_exactly(
    saga: World, unique: str, currency: str, total: str, units: int
) -> None:
    order = an_order(f"MONEY-{unique}", price=total, currency=currency)
    known: OrderOutcome = await (await process_order(order, return_state=True)).aresult()
    assert (known.outcome, known.reasons) == (Outcome.COMPLETED, [])
    assert [(each["amount"], each["currency"], each["status"]) for each in saga.ledger(order["id"])] == [
        (units, currency, "succeeded")
    ]
    assert saga.shipments(order["id"]) == 1


async def test_the_total_may_be_a_unit_less_and_then_that_is_charged(saga: World, unique: str) -> None:
    order = an_order(f"LESS-{unique}", total_amount="999.98")
    await process_order(order, return_state=True)
    assert saga.money(order["id"]) == (Decimal("999.98"), 0)


@pytest.mark.parametrize(
    "number",
    [
        "6076399753379",
        "49687737352838",
        "2005781872004",
        "244-7364554-8529981",
        "20260121194522",
        "4242424242424242",
    ],
)
async def test_ids_that_would_pass_for_card_numbers_are_sold_and_shipped(
    saga: World, unique: str, number: str
) -> None:
    saga.receive(number, 5, name="Pen")
    order = an_order(
        f"{number} {unique}x", product=number, customer_id=number, checkout_id=number, price="14.30"
    )
    known: OrderOutcome = await (await process_order(order, return_state=True)).aresult()
    assert known.outcome is Outcome.COMPLETED
    assert saga.money(order["id"]) == (Decimal("14.30"), 0)
    assert saga.stock(number) == (4, 0)
    assert saga.shipments(order["id"]) == 1


# -- orders of the version before


_TOP = (
    "id customer_id total_amount currency customer_name customer_email notes "
    "tax_amount shipping_amount discount_amount"
).split()
FIELDS_THEN: dict[str, Any] = {
    **dict.fromkeys(_TOP, True),
    "items": {"__all__": {"product_id", "quantity", "price", "name"}},
    "payment_info": {"method", "card_last4", "token"},
    "shipping_info": {"name", "address", "city", "state", "zip", "country"},
}


def as_before(order: dict[str, Any]) -> tuple[str, str]:
    """Content and fingerprint, as the version stored them that covered every field of then and its
    default."""
    content = Order.model_validate(order).model_dump(mode="json", include=FIELDS_THEN)
    text_then = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text_then, hashlib.sha256(text_then.encode()).hexdigest()


_STORE = text(
    "INSERT INTO customer_order (id, content, fingerprint, outcome) "
    "VALUES (:id, CAST(:content AS jsonb), :fingerprint, :outcome)"
)


async def store_as_before(order: dict[str, Any], outcome: str | None = None) -> None:
    content, fingerprint = as_before(order)
    async with transaction() as tx:
        await tx.execute(
            _STORE, {"id": order["id"], "content": content, "fingerprint": fingerprint, "outcome": outcome}
        )


def test_the_fixture_is_what_that_version_made() -> None:
    assert as_before(EXAMPLE)[1] == "cf24978815acca6ad9b347d3a6be13e43279e7a4b2b4880b05b8fc58feb2ac6e"


async def test_the_same_order_is_known_and_another_one_is_not(shop: Shop) -> None:
    order = {**EXAMPLE, "id": "A"}
    await store_as_before(order, "completed")
    bare = without(without(order, "currency"), "shipping_info", "country")
    for again in (
        order,
        {**order, "tax_amount": 0, "notes": None},
        {**order, "unknown": {"x": 1}},
        bare,
        {**order, "shipping_info": {**order["shipping_info"], "address2": "Apt 5"}},
    ):
        (receipt,) = intake.submit([again])
        assert (receipt.status, receipt.outcome) == ("known", Outcome.COMPLETED)
    for other in (
        {**order, "total_amount": "1059.96"},
        {**order, "currency": "EUR"},
        {**order, "notes": "Ring twice"},
    ):
        assert intake.submit([other])[0].status == "refused"
    assert await shop.count("customer_order") == 1


async def test_an_order_whose_customer_is_erased_is_known_by_its_fingerprint(shop: Shop) -> None:
    order = {**EXAMPLE, "id": "A"}
    await store_as_before(order, "completed")
    await shop.rows(
        "UPDATE customer_order SET content = CAST(:content AS jsonb)",
        content='{"id": "A", "customer_id": "erased"}',
    )
    assert intake.submit([order])[0].status == "known"
    assert intake.submit([{**order, "customer_id": "erased"}])[0].status == "refused"


async def test_a_later_version_with_another_field_knows_todays_orders(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(Order):
        gift_message: str | None = None
        channel: str = "web"

    order = {**EXAMPLE, "id": "A"}
    assert intake.submit([order])[0].status == "accepted"
    monkeypatch.setattr("shop.orders.intake_content.Order", Later)
    assert intake.submit([order])[0].status == "known"
    assert intake.submit([{**order, "channel": "web"}])[0].status == "known"
    assert intake.submit([{**order, "gift_message": "Hello"}])[0].status == "refused"
    assert await shop.count("customer_order") == 1


async def test_an_order_that_was_begun_without_currency_and_country_continues(
    saga: World, unique: str
) -> None:
    """It was checked when they had defaults; its customer agreed to dollars."""
    order = an_order(f"BEGUN-{unique}")
    content = without(without(order, "currency"), "shipping_info", "country")
    async with transaction() as tx:
        await tx.execute(
            _STORE,
            {
                "id": order["id"],
                "content": json.dumps(content),
                "fingerprint": as_before(order)[1],
                "outcome": None,
            },
        )
        step = (
            "INSERT INTO order_step (order_id, step, status, ended_at, result) "
            "VALUES (:id, 'validate_order', 'done', now(), '{}')"
        )
        await tx.execute(text(step), {"id": order["id"]})
        await tx.execute(text("UPDATE customer_order SET fence = 1"))
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(order["id"]).outcome == "completed"
    assert [(each["amount"], each["currency"]) for each in saga.ledger(order["id"])] == [(99_999, "USD")]
    assert saga.shipments(order["id"]) == 1
    assert intake.submit([content])[0].status == "known"
    saga.assert_books_balance()
