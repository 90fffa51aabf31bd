"""Orders of other shop systems, as they write them (`tests/shop_payloads/`): what becomes of them here."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shop.orders import exact_json
from shop.orders.errors import OrderRejected, UnusableOrder
from shop.orders.formats.known import FORMATS, map_order
from shop.orders.formats.mapping import Mapped, NotPaidYet, order_total
from shop.orders.formats.settings import Options
from shop.orders.formats.shopify import map_order as map_shopify
from shop.orders.intake_content import take_in
from shop.orders.order import Order
from shop.orders.validation import validate
from shop.settings import settings

FOLDER = Path(__file__).resolve().parent.parent / "shop_payloads"
FILES = sorted(FOLDER.glob("*/*.json"))


@dataclass(frozen=True, slots=True)
class Payload:
    shop: str
    name: str
    source: str
    order: dict[str, Any]
    total: str | None = None
    due: str | None = None
    method: str | None = None
    rejected: tuple[str, ...] = ()
    waiting: bool = False
    cancelled: bool = False

    @property
    def is_accepted(self) -> bool:
        return self.total is not None


def read(file: Path) -> Payload:
    return Payload(file.parent.name, file.stem, **exact_json.loads(file.read_text(encoding="utf-8")))


PAYLOADS = [read(file) for file in FILES]
each_payload = pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: f"{p.shop}-{p.name}")
each_accepted = pytest.mark.parametrize(
    "payload", [p for p in PAYLOADS if p.is_accepted], ids=lambda p: f"{p.shop}-{p.name}"
)


def of(shop: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in PAYLOADS if (each.shop, each.name) == (shop, name)]
    return copy.deepcopy(found.order)


class EveryProduct:
    async def known(self, product_ids: set[str]) -> set[str]:
        return product_ids


async def verdict(mapped: Mapped) -> Order | OrderRejected:
    (found,) = await validate([json.loads(take_in(mapped.to_store()).text)], EveryProduct(), settings())
    return found


@pytest.mark.parametrize("shop", FORMATS)
def test_each_shop_has_enough_payloads_of_both_kinds(shop: str) -> None:
    mine = [payload for payload in PAYLOADS if payload.shop == shop]
    assert len(mine) >= 10
    assert sum(payload.is_accepted for payload in mine) >= 5
    assert sum(bool(payload.rejected) for payload in mine) >= 2
    assert all(payload.source for payload in mine)


@each_payload
def test_payloads_name_invented_people(payload: Payload) -> None:
    text = json.dumps(payload.order, default=str)
    assert all(domain == "example.com" for domain in re.findall(r"\w@([\w.-]+\w)", text))


@each_accepted
def test_the_amounts_are_those_of_the_payload(payload: Payload) -> None:
    mapped = map_order(payload.shop, payload.order)
    order = mapped.checked()
    assert Decimal(order["total_amount"]) == order_total(order) == Decimal(payload.total or 0)
    parts = sum((Decimal(part["amount"]) for part in order.get("part_payments", ())), Decimal(0))
    assert Decimal(order["total_amount"]) - parts == Decimal(payload.due or 0)
    assert (order.get("payment_info") or {}).get("method") == payload.method


@each_accepted
async def test_an_accepted_order_is_valid(payload: Payload) -> None:
    found = await verdict(map_order(payload.shop, payload.order))
    assert isinstance(found, Order), found
    assert found.amount_due == Decimal(payload.due or 0)


@each_payload
def test_every_reason_of_a_rejection_is_named_at_once(payload: Payload) -> None:
    mapped = map_order(payload.shop, payload.order)
    assert sorted(problem.place for problem in mapped.problems) == sorted(payload.rejected)
    assert (mapped.waiting is not None) == payload.waiting
    assert (mapped.cancelled is not None) == payload.cancelled
    if payload.rejected or payload.cancelled:
        with pytest.raises(OrderRejected):
            mapped.checked()
    elif payload.waiting:
        with pytest.raises(NotPaidYet):
            mapped.checked()


@pytest.mark.parametrize("payload", [p for p in PAYLOADS if p.rejected], ids=lambda p: f"{p.shop}-{p.name}")
async def test_a_rejected_order_can_be_stored_and_keeps_its_reasons(payload: Payload) -> None:
    mapped = map_order(payload.shop, payload.order)
    found = await verdict(mapped)
    assert isinstance(found, OrderRejected)
    assert {problem.place for problem in mapped.problems} <= {problem.place for problem in found.problems}
    again = take_in(json.loads(take_in(mapped.to_store()).text))
    assert again.fingerprint == take_in(mapped.to_store()).fingerprint


def test_only_money_that_may_have_to_go_back_is_kept_with_a_rejected_order() -> None:
    """A person would have to give it back."""
    rejected = map_order("shopify", of("shopify", "exchange_usd")).to_store()
    assert rejected["payment_info"]["method"] == "already_paid"
    for shop, name in [("shopify", "fulfilled_pln"), ("woocommerce", "documentation_completed_usd")]:
        mapped = map_order(shop, of(shop, name))
        assert mapped.order["payment_info"]["method"] == "already_paid"
        assert "payment_info" not in mapped.to_store()
    refunded = of("woocommerce", "stripe_paid_usd") | {"status": "refunded"}
    assert "payment_info" not in map_order("woocommerce", refunded).to_store()


@each_accepted
def test_a_field_that_may_move_money_is_refused_and_others_are_listed(payload: Payload) -> None:
    order = {**payload.order, "environment_surcharge_amount": "2.00", "zodiac": {"sign": "libra"}}
    mapped = map_order(payload.shop, order)
    assert [problem.place for problem in mapped.problems] == ["environment_surcharge_amount"]
    assert "zodiac" in mapped.ignored
    assert "environment_surcharge_amount" not in mapped.ignored


@each_accepted
def test_a_total_that_is_not_the_sum_is_refused(payload: Payload) -> None:
    order = copy.deepcopy(payload.order)
    for name in ("total", "total_price", "current_total_price"):
        if name in order:
            order[name] = int(Decimal(str(order[name])) + 7) if payload.shop == "medusa" else "9876.54"
    for name in ("total_price_set", "current_total_price_set"):
        if name in order:
            order[name] = {money: {**bag, "amount": "9876.54"} for money, bag in order[name].items()}
    assert any("total" in problem.place for problem in map_order(payload.shop, order).problems)


def test_ids_have_the_prefix_of_their_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    order = of("woocommerce", "stripe_paid_usd")
    assert map_order("woocommerce", order).order_id == "woocommerce-897"
    monkeypatch.setenv("WOOCOMMERCE_PREFIXES", '{"shop.example": "first-"}')
    settings.cache_clear()
    assert map_order("woocommerce", order).order_id == "first-897"
    assert map_order("shopify", {"order": of("shopify", "draft_order_pln")}).order_id == "shopify-100510"


@pytest.mark.parametrize(("wanted", "product"), [("sku", "82804GM"), ("variant_id", "48737066975544")])
def test_the_product_id_is_the_one_that_the_settings_say(wanted: str, product: str) -> None:
    mapped = map_shopify(of("shopify", "taxes_included_aud"), Options(prefix="", product_id=wanted))
    assert mapped.order["items"][0]["product_id"] == product


def test_a_line_without_sku_has_its_variants_id() -> None:
    mapped = map_order("shopify", of("shopify", "draft_order_discounts_hkd"))
    assert [item["product_id"] for item in mapped.order["items"]] == ["50398373085484", "50451770802476"]


def test_manual_methods_have_the_shops_own_names() -> None:
    order = of("shopify", "cash_on_delivery_eur") | {"payment_gateway_names": ["Nachnahme  Post"]}
    assert map_shopify(order, Options(prefix="")).waiting is not None
    named = Options(prefix="", manual_methods={"nachnahme post": "cash_on_delivery"})
    assert map_shopify(order, named).checked()["payment_info"] == {"method": "cash_on_delivery"}


def test_goods_that_were_taken_out_are_not_shipped() -> None:
    """Older API versions do not say how many pieces are left."""
    order = of("shopify", "cash_on_delivery_eur")
    order["refunds"] = [
        {"id": 1, "transactions": [], "refund_line_items": [{"line_item_id": 1, "quantity": 1}]}
    ]
    assert [each.place for each in map_order("shopify", order).problems] == ["refunds[0].refund_line_items"]
    order["line_items"][0] |= {"current_quantity": 1, "fulfillable_quantity": 1}
    order |= {"current_total_price": "35.45", "current_total_tax": "6.15", "total_outstanding": "35.45"}
    order |= {"current_total_price_set": None}
    assert [item["quantity"] for item in map_order("shopify", order).checked()["items"]] == [1]


def test_a_test_order_is_only_taken_if_the_settings_say_so() -> None:
    order = of("shopify", "documentation_paid_usd") | {"test": True}
    assert [problem.place for problem in map_shopify(order, Options(prefix="")).problems] == ["test"]
    assert map_shopify(order, Options(prefix="", test_orders=True)).checked()


@pytest.mark.parametrize(
    ("shop", "name", "provider", "reference"),
    [
        ("woocommerce", "stripe_paid_usd", "stripe", "pi_3JWmBuLTUR9LBPfg1PsNH6Hz"),
        ("woocommerce", "subscription_renewal_usd", "stripe", "ch_1F80XSHmb92rNdes7VNyHrsz"),
        ("woocommerce", "documentation_bacs_paid_usd", "bacs", "order 727"),
        ("medusa", "v2_captured_sgd", "stripe", "pi_3Sxoag"),
        ("shopify", "taxes_included_aud", "shopify_payments", "gid://shopify/Order/7024924328248"),
        ("shopify", "gift_card_and_digital_usd", "shopify_payments", "c901414060.1"),
    ],
)
def test_who_has_the_money_is_stated(shop: str, name: str, provider: str, reference: str) -> None:
    info = map_order(shop, of(shop, name)).checked()["payment_info"]
    assert (info["provider"], info["reference"]) == (provider, reference)


def test_amounts_are_those_that_the_customer_paid() -> None:
    order = map_order("shopify", of("shopify", "presentment_currency_cad_eur")).checked()
    assert (order["currency"], order["total_amount"], order["tip_amount"]) == ("EUR", "114.90", "3.50")
    assert [item["price"] for item in order["items"]] == ["70.00"]
    assert order["fees"] == [{"name": "Duties", "amount": "18.30"}]


def with_currencies_swapped(part: Any) -> Any:
    """The same order, in a shop with the customer's currency, of a customer with the shop's."""
    if isinstance(part, list):
        return [with_currencies_swapped(each) for each in part]
    if not isinstance(part, dict):
        return part
    made = {name: with_currencies_swapped(value) for name, value in part.items()}
    if "presentment_money" in part:
        made |= {"shop_money": part["presentment_money"], "presentment_money": part["shop_money"]}
    if "presentment_currency" in part:
        made |= {"currency": part["presentment_currency"], "presentment_currency": part["currency"]}
    for name, value in part.items():
        if name.removesuffix("_set") in part and name.endswith("_set") and value:
            made[name.removesuffix("_set")] = value["presentment_money"]["amount"]
    return made


@pytest.mark.parametrize(
    ("swapped", "in_shop", "total"), [(False, "164.86", "114.90"), (True, "114.90", "164.86")]
)
def test_what_is_due_is_in_the_currency_of_the_shop(swapped: bool, in_shop: str, total: str) -> None:
    """All of it is collected on delivery; but not what a gift card has paid, which the payload does not say
    in the customer's currency."""
    order = of("shopify", "presentment_currency_cad_eur")
    order = with_currencies_swapped(order) if swapped else order
    order |= {"payment_gateway_names": ["Cash on Delivery (COD)"], "transactions": []}
    due = map_order("shopify", order | {"financial_status": "pending", "total_outstanding": in_shop})
    assert due.checked()["payment_info"] == {"method": "cash_on_delivery"}
    assert due.order["total_amount"] == total
    order["payment_gateway_names"].append("gift_card")
    rest = str(Decimal(in_shop) - 1)
    partly = map_order("shopify", order | {"financial_status": "partially_paid", "total_outstanding": rest})
    assert [problem.place for problem in partly.problems] == ["total_outstanding"]


@pytest.mark.parametrize("payload", [None, [], "order", {}, {"id": ""}, {"id": None, "name": "#1"}])
def test_what_has_no_id_is_refused(payload: object) -> None:
    for shop in FORMATS:
        with pytest.raises(UnusableOrder):
            map_order(shop, payload)


@given(
    payload=some.sampled_from(PAYLOADS),
    value=some.sampled_from(
        [
            None,
            "",
            "x",
            -1,
            0,
            "1e5",
            "NaN",
            True,
            [],
            {},
            [1],
            {"a": 1},
            1.5,
            "-3.00",
            10**5000,
            Decimal("1e-9999"),
        ]
    ),
    data=some.data(),
)
def test_no_payload_makes_a_mapping_fail(payload: Payload, value: object, data: some.DataObject) -> None:
    """A field of any other type is a problem, never another error, and no amount is accepted that does not
    add up."""
    order = copy.deepcopy(payload.order)
    at: Any = order
    for _ in range(4):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = data.draw(some.sampled_from(keys))
        if isinstance(at[key], dict | list) and data.draw(some.booleans()):
            at = at[key]
        else:
            if not (at is order and key == "id"):
                at[key] = value
            break
    mapped = map_order(payload.shop, order)
    take_in(mapped.to_store())
    if not mapped.reasons:
        assert order_total(mapped.order) == Decimal(mapped.order["total_amount"])


HUGE = 10**5000


@pytest.mark.parametrize(
    ("shop", "name", "changes"),
    [
        ("shopify", "taxes_included_aud", {"payment_gateway_names": 5}),
        ("shopify", "taxes_included_aud", {"total_price": HUGE, "current_total_price": HUGE}),
        ("shopify", "taxes_included_aud", {"total_price": Decimal("1e-9999")}),
        ("shopify", "taxes_included_aud", {"email": HUGE}),
        ("woocommerce", "stripe_paid_usd", {"total": HUGE}),
        ("woocommerce", "stripe_paid_usd", {"transaction_id": HUGE}),
        ("medusa", "v2_captured_sgd", {"metadata": ["x"]}),
    ],
    ids=lambda given: "+".join(given) if isinstance(given, dict) else given,
)
def test_values_of_odd_types_are_refused(shop: str, name: str, changes: dict[str, Any]) -> None:
    mapped = map_order(shop, of(shop, name) | changes)
    assert {problem.place for problem in mapped.problems} & set(changes)
    take_in(mapped.to_store())


def test_metadata_of_a_line_of_an_odd_type_is_refused() -> None:
    order = of("medusa", "v2_captured_sgd")
    order["items"][0]["metadata"] = [1]
    assert [problem.place for problem in map_order("medusa", order).problems] == ["items[0].metadata"]


@pytest.mark.parametrize("odd", [HUGE, 0, True, 1.5, [1], {"a": 1}, Decimal("NaN")], ids=type)
def test_an_id_of_an_odd_type_is_none(odd: object) -> None:
    for shop in FORMATS:
        with pytest.raises(UnusableOrder):
            map_order(shop, {"id": odd})


CARD = "4111 1111 1111 1111"


@pytest.mark.parametrize("before", [470, 484, 495, 1_490, 1_499])
def test_no_part_of_a_card_number_is_left_by_a_cut(before: int) -> None:
    text = "x" * before + f" {CARD} 12/30 " + "y" * 2_000
    order = of("shopify", "taxes_included_aud") | {
        "note_attributes": [
            {"name": "msg", "value": text},
            {"name": "n" * (before % 100) + CARD, "value": "x"},
        ],
        "discount_codes": [{"code": text}],
        "cancelled_at": "2026-02-05T10:00:00+11:00",
        "cancel_reason": "c" * 40 + CARD,
        "financial_status": "f" * 45 + CARD,
    }
    mapped = map_order("shopify", order)
    coupons = of("woocommerce", "stripe_paid_usd") | {
        "coupon_lines": [{"code": text}],
        "meta_data": [{"key": "msg", "value": text}],
    }
    for each in (mapped, map_order("woocommerce", coupons)):
        assert "1111" not in take_in(each.to_store()).text


def test_a_gift_card_whose_rest_is_unknown_is_refused() -> None:
    order = of("shopify", "cash_on_delivery_eur") | {
        "financial_status": "partially_paid",
        "payment_gateway_names": ["gift_card", "Cash on Delivery (COD)"],
    }
    order.pop("total_outstanding", None)
    assert [problem.place for problem in map_order("shopify", order).problems] == ["total_outstanding"]


def test_a_rejection_states_the_refunded_amount() -> None:
    back = {"transactions": [{"kind": "refund", "status": "success", "amount": "12.34"}]}
    orders = [
        (
            "shopify",
            of("shopify", "taxes_included_aud") | {"financial_status": "refunded", "refunds": [back]},
        ),
        ("woocommerce", of("woocommerce", "stripe_paid_usd") | {"refunds": [{"id": 1, "total": "-12.34"}]}),
        ("medusa", of("medusa", "v2_captured_sgd") | {"refunds": [{"amount": 12.34}]}),
    ]
    for shop, order in orders:
        assert any("12.34" in problem.given for problem in map_order(shop, order).problems), shop
    for shop, name, field in (
        ("shopify", "taxes_included_aud", "financial_status"),
        ("woocommerce", "stripe_paid_usd", "status"),
    ):
        order = of(shop, name) | {field: "refunded"}
        total = str(order.get("total_price") or order["total"])
        assert any(total in problem.given for problem in map_order(shop, order).problems), shop


# -- generated orders of Shopify
# --------------------------------------------------------------------------------------------------

CENTS = some.integers(0, 100_000).map(lambda cents: Decimal(cents) / 100)


@dataclass(frozen=True, slots=True)
class Line:
    price: Decimal
    pieces: int
    off: Decimal
    tax: Decimal


@some.composite
def lines(draw: Callable[..., Any]) -> Line:
    price, pieces = draw(CENTS), draw(some.integers(1, 20))
    off = (price * pieces * draw(some.integers(0, 100)) / 100).quantize(Decimal("0.01"))
    return Line(price, pieces, min(off, price * pieces), draw(CENTS))


def taxed(line: Line, off: Decimal) -> dict[str, Any]:
    return {
        "tax_lines": [{"price": str(line.tax), "rate": 0.1}],
        "discount_allocations": [{"amount": str(off)}],
    }


@given(
    bought=some.lists(lines(), min_size=1, max_size=6),
    shipping=some.lists(lines(), max_size=2),
    included=some.booleans(),
    tip=CENTS,
    duties=CENTS,
)
async def test_generated_orders_add_up(
    bought: list[Line], shipping: list[Line], included: bool, tip: Decimal, duties: Decimal
) -> None:
    goods = sum((line.price * line.pieces - line.off for line in bought), Decimal(0))
    carried = sum((line.price - min(line.off, line.price) for line in shipping), Decimal(0))
    tax = sum((line.tax for line in (*bought, *shipping)), Decimal(0))
    total = goods + carried + tip + duties + (0 if included else tax)
    order = of("shopify", "taxes_included_aud") | {
        "taxes_included": included,
        "total_price": str(total),
        "current_total_price": str(total),
        "total_tax": str(tax),
        "current_total_tax": str(tax),
        "total_tip_received": str(tip),
        "original_total_duties_set": {"shop_money": {"amount": str(duties), "currency_code": "AUD"}},
    }
    (line,), (carriage,) = order["line_items"], order["shipping_lines"]
    order["line_items"] = [
        line
        | dict.fromkeys(("quantity", "current_quantity", "fulfillable_quantity"), each.pieces)
        | {"price": str(each.price), **taxed(each, each.off)}
        for each in bought
    ]
    order["shipping_lines"] = [
        carriage | {"price": str(each.price), **taxed(each, min(each.off, each.price))} for each in shipping
    ]
    mapped = map_order("shopify", order)
    assert order_total(mapped.checked()) == total
    if total:
        assert mapped.order["payment_info"]["method"] == "already_paid"
    found = await verdict(mapped)
    assert isinstance(found, Order) or total > settings().orders.max_total("AUD"), found
