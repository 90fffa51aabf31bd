"""Maps Shopify's orders: the REST resource Order, which its webhooks carry.

https://shopify.dev/docs/api/admin-rest/latest/resources/order

Amounts are those that the customer saw and paid (`presentment_money`). An order that was edited or partly
refunded before it is taken is mapped as it is now (`current_...`), if its amounts are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from shop.orders.formats import mapping
from shop.orders.formats.mapping import (
    Mapped,
    address,
    amounts,
    chosen_id,
    full_name,
    properties,
    settle,
    without_empty,
)
from shop.orders.formats.reading import Reading
from shop.orders.formats.settings import Options
from shop.orders.parts import ALREADY_PAID, BANK_TRANSFER, CASH_ON_DELIVERY
from shop.text.card_numbers import cut

_MANUAL = {
    "cash on delivery (cod)": CASH_ON_DELIVERY,
    "cash on delivery": CASH_ON_DELIVERY,
    "cash_on_delivery": CASH_ON_DELIVERY,
    "bank deposit": BANK_TRANSFER,
    "bank_deposit": BANK_TRANSFER,
    "money order": BANK_TRANSFER,
    "money_order": BANK_TRANSFER,
}
"""Shopify's names of manual payment methods."""
_UNPAID = frozenset({"pending", "authorized", "partially_paid"})
_NEVER_PAID = frozenset({"voided", "expired"})
_NOT_SHIPPED = frozenset({"cancelled", "error", "failure"})
_IRRELEVANT = tuple(
    """
    admin_graphql_api_id *token app_id browser_ip client_details landing_site* referring_site
    source_identifier source_url reference user_id device_id checkout_id order_status_url merchant_*
    confirmed confirmation_number processing_method number buyer_accepts_marketing estimated_taxes
    duties_included payment_details location_id

    *_set tax_lines discount_codes discount_applications total_weight total_price_usd subtotal_price
    total_line_items_price total_discounts total_tax current_* total_discount discounted_price

    line_items[].id line_items[].vendor line_items[].fulfillment_service line_items[].title
    line_items[].product_exists line_items[].variant_inventory_management line_items[].taxable
    line_items[].*_location line_items[].attributed_staffs line_items[].tax_code line_items[].duties
    line_items[].sales_line_item_group_id line_item_groups pre_tax_price line_items[].variant_title

    shipping_lines[].id shipping_lines[].carrier_identifier shipping_lines[].source
    shipping_lines[].requested_fulfillment_service_id shipping_lines[].delivery_category
    shipping_lines[].phone shipping_lines[].code discount_allocations tax_exempt

    latitude longitude first_name last_name *_address.country *_address.province created_at updated_at
    closed_at multipass_identifier *accepts_marketing* *consent* customer.default_address
    customer.addresses customer.orders_count customer.total_spent customer.last_order_* customer.state
    customer.verified_email customer.currency customer.tax_exemptions customer.marketing_opt_in_level
    """.split()
)
"""Fields of no interest: identity and origin of the browser and of the app; sums of what is read, and the
same amounts in another currency; duplicates, and what only programs use."""


class _Money:
    """Reads amounts in the currency in which the customer paid."""

    def __init__(self, order: Reading) -> None:
        self.shop = (order.text("currency") or "").upper()
        self.currency = (order.text("presentment_currency") or self.shop).upper()
        self.is_foreign = self.currency != self.shop

    def of(self, part: Reading, name: str) -> Decimal:
        own = part.amount(name)
        if not self.is_foreign:
            return own if name in part else self.in_set(part, f"{name}_set")
        if own and not part.part(f"{name}_set"):
            part.refuse(name, f"{own} {self.shop}", f"also the amount in {self.currency} ({name}_set)")
        return self.in_set(part, f"{name}_set")

    def in_set(self, part: Reading, name: str) -> Decimal:
        bag = part.part(name).part("presentment_money" if self.is_foreign else "shop_money")
        amount, currency = bag.amount("amount"), (bag.text("currency_code") or self.currency).upper()
        if amount and currency != self.currency:
            part.refuse(name, currency, f"an amount in {self.currency}")
        return amount


def map_order(payload: Mapping[str, Any], options: Options) -> Mapped:
    """Maps one order."""
    read = Reading(payload)
    money = _Money(read)
    order: dict[str, Any] = {"id": f"{options.prefix}{read.text('id')}", "currency": money.currency}
    _check_state(read, options)
    _add_parts(order, read, money, options)
    waiting = _add_payment(order, read, money, options)
    _add_people(order, read)
    shipped_there = _is_shipped(read)
    cancelled = _cancelled(read)
    refunded = "refunded in Shopify" if read.text("financial_status") == "refunded" else None
    ignored = read.unread(_IRRELEVANT)
    return Mapped(
        without_empty(order), ignored, tuple(read.problems), waiting, cancelled, shipped_there, refunded
    )


# -- states


def _check_state(read: Reading, options: Options) -> None:
    if read.flag("test") and not options.test_orders:
        read.refuse("test", "true", "an order that is no test (SHOPIFY_TEST_ORDERS takes them)")
    for name in ("returns", "exchanges"):
        if read.get(name):
            read.refuse(name, "a return", "an order without returns and exchanges")
    if (
        adjustment := read.part("total_cash_rounding_payment_adjustment_set")
        .part("shop_money")
        .amount("amount")
    ):
        read.refuse(
            "total_cash_rounding_payment_adjustment_set", adjustment, "0: cash rounding has no place here"
        )


def _cancelled(read: Reading) -> str | None:
    if read.get("cancelled_at") is None:
        read.skip("cancel_reason")
        return None
    return f"cancelled in Shopify: {cut(read.text('cancel_reason') or 'no reason given', 50)}"


def _is_shipped(read: Reading) -> bool:
    state, shipped = read.text("fulfillment_status"), False
    if state not in (None, "unfulfilled"):
        shipped = state in ("fulfilled", "partial")
        read.refuse(
            "fulfillment_status", state, "null: nothing of the order is shipped, returned or restocked"
        )
    for each in read.each("fulfillments"):
        if (status := each.text("status")) not in _NOT_SHIPPED:
            shipped = True
            each.refuse("status", status or "nothing", "a cancelled or failed fulfillment: goods have left")
    read.skip("fulfillments")
    if read.get("closed_at") is not None:
        read.refuse("closed_at", "a time", "null: the order is archived")
    return shipped


# -- lines, shipping, taxes, discounts


def _add_parts(order: dict[str, Any], read: Reading, money: _Money, options: Options) -> None:
    lines = read.each("line_items")
    edited = any(_pieces(line)[0] != _pieces(line)[1] for line in lines)
    name = "current_total_price" if "current_total_price" in read else "total_price"
    total, original = money.of(read, name), money.of(read, "total_price")
    edited |= total != original
    goods = [line for line in lines if not _is_tip(line)]
    tip = sum(
        (money.of(line, "price") * (_pieces(line)[1] or 0) for line in lines if _is_tip(line)), Decimal(0)
    )
    received = read.amount("total_tip_received")
    if received and not tip:
        tip = received
        if money.is_foreign:
            read.refuse(
                "total_tip_received", f"{received} {money.shop}", f"also the amount in {money.currency}"
            )
    shipping = [line for line in read.each("shipping_lines") if not line.flag("is_removed")]
    taxes = _sum(money.of(tax, "price") for part in (*goods, *shipping) for tax in part.each("tax_lines"))
    total_tax = money.of(read, "current_total_tax" if edited else "total_tax")
    by_part = not edited and taxes == total_tax
    order |= {
        "items": [item for line in goods if (item := _item(line, money, options, by_part, edited))],
        "shipping_lines": [_shipping(line, money, by_part, edited) for line in shipping],
        "prices_include_tax": read.flag("taxes_included"),
        "fees": _fees(read, money, edited),
    }
    if edited:
        off = _sum(Decimal(line.get("discount_amount", 0)) for line in order["shipping_lines"])
        order |= amounts(discount_amount=money.of(read, "current_total_discounts") - off)
        _check_refunds(read, money, original - total)
    else:
        _check_refunds(read, money, Decimal(0))
        for refund in read.each("refunds"):
            if refund.get("refund_line_items"):  # an older API version does not say what is left
                back = f"removed lines, {_refunded(read)} refunded"
                refund.refuse("refund_line_items", back, "lines with current_quantity")
    read.skip("refunds")
    order |= amounts(tip_amount=tip, **({} if by_part else {"tax_amount": total_tax}))
    order["total_amount"] = str(total)
    settle(order, read, name)


def _pieces(line: Reading) -> tuple[int | None, int | None]:
    """Returns how many pieces were ordered, and how many are left after edits and refunds."""
    ordered, now = line.whole("quantity"), line.whole("current_quantity")
    return ordered, ordered if now is None and "current_quantity" not in line else now or 0


def _is_tip(line: Reading) -> bool:
    return line.get("tip") is not None


def _item(
    line: Reading, money: _Money, options: Options, by_part: bool, edited: bool
) -> dict[str, Any] | None:
    ordered, pieces = _pieces(line)
    price = money.of(line, "price")
    allocations = _sum(money.of(each, "amount") for each in line.each("discount_allocations"))
    if "discount_allocations" not in line:
        allocations = money.of(line, "total_discount")
    tax = _sum(money.of(each, "price") for each in line.each("tax_lines"))
    status, left = line.text("fulfillment_status"), line.whole("fulfillable_quantity")
    ids = {name: line.text(name) for name in ("sku", "variant_id", "product_id")}
    made = {
        "product_id": chosen_id(ids, options),
        "quantity": pieces,
        "price": str(price),
        "name": line.text("title", "name"),
        "sku": line.text("sku"),
        "variant": None if line.text("variant_title") == "Default Title" else line.text("variant_title"),
        "weight_grams": line.whole("grams"),
        "properties": properties((each.get("name"), each.get("value")) for each in line.each("properties")),
        "digital": not line.flag("requires_shipping")
        if "requires_shipping" in line
        else line.flag("gift_card"),
    }
    line.skip("name", "title", "properties", "gift_card")
    if pieces == 0:
        return None
    if made["product_id"] is None:
        line.refuse(
            "sku", "nothing", "a sku, variant_id or product_id: a custom item is not in the catalogue"
        )
    if ordered is None or ordered < 0 or price < 0:
        line.refuse(
            "quantity" if price >= 0 else "price",
            "nothing" if ordered is None else "less than 0",
            "0 or more",
        )
    if status not in (None, "unfulfilled"):
        line.refuse("fulfillment_status", status, "null: nothing of the line is shipped or restocked")
    if left is not None and pieces is not None and left < pieces:
        line.refuse("fulfillable_quantity", left, f"{pieces}, all pieces that are left of the line")
    if not edited:
        made |= amounts(discount_amount=allocations, **({"tax_amount": tax} if by_part else {}))
    return without_empty(made) | {"price": str(price)}


def _shipping(line: Reading, money: _Money, by_part: bool, edited: bool) -> dict[str, Any]:
    price = money.of(line, "price")
    off = _sum(money.of(each, "amount") for each in line.each("discount_allocations"))
    if "discount_allocations" not in line and "discounted_price" in line:
        off = price - money.of(line, "discounted_price")
    if edited and "current_discounted_price_set" in line:
        now = money.in_set(line, "current_discounted_price_set")
        price, off = (price, off) if now == price - off else (now, Decimal(0))
    tax = _sum(money.of(each, "price") for each in line.each("tax_lines")) if by_part else Decimal(0)
    return {
        "title": line.text("title", "code"),
        "amount": str(price),
        **amounts(discount_amount=off, tax_amount=tax),
    }


def _fees(read: Reading, money: _Money, edited: bool) -> list[dict[str, str]]:
    fees = []
    for title, name in (("Duties", "total_duties_set"), ("Additional fees", "total_additional_fees_set")):
        now, first = money.in_set(read, f"current_{name}"), money.in_set(read, f"original_{name}")
        if amount := now if edited or now else first:
            fees.append({"name": title, "amount": str(amount)})
    return fees


def _check_refunds(read: Reading, money: _Money, less: Decimal) -> None:
    """Refuses refunds that the current amounts do not fully show."""
    back = _refunded(read)
    if back and (back != less or money.is_foreign):
        read.refuse("refunds", f"{back} refunded", f"{less}, by which the order's total is lower now")


def _refunded(read: Reading) -> Decimal:
    """Returns how much the payload says was given back."""
    return _sum(
        each.amount("amount")
        for refund in read.each("refunds")
        for each in refund.each("transactions")
        if each.text("kind") == "refund" and each.text("status") == "success"
    )


def _sum(given: Any) -> Decimal:
    return sum(given, Decimal(0))


# -- payment


def _add_payment(order: dict[str, Any], read: Reading, money: _Money, options: Options) -> str | None:
    """Returns why the order is not paid yet."""
    status, total = read.text("financial_status"), Decimal(order["total_amount"])
    gateways = read.texts("payment_gateway_names")
    gateways = gateways or [name for name in (read.text("gateway"),) if name]
    read.skip("gateway", "payment_terms")
    due = read.amount("total_outstanding")
    payments = _transactions(read, money)
    if not total and status in ("paid", "pending"):
        return None
    if status in ("paid", "partially_refunded"):
        if due:
            read.refuse("total_outstanding", due, "0: an edit of the order is not paid")
        _add_paid(order, gateways, payments, total, read)
        return None
    if status not in _UNPAID:
        given = status or "nothing"
        if back := _refunded(read):
            given = f"{given} ({back} refunded)"
        elif status == "refunded":
            given = f"{given} ({read.amount('total_price')}, all of it)"
        read.refuse("financial_status", given, "paid, or pending with a manual payment method")
        return f"financial_status is {status}" if status in _NEVER_PAID else None
    online = [name for name in gateways if name != "gift_card"]
    methods = {mapping.manual_method(name, _MANUAL, options) for name in online}
    method = methods.pop() if len(methods) == 1 else None
    if (
        method is None
        or status == "authorized"
        or (status == "partially_paid" and "gift_card" not in gateways)
    ):
        return f"financial_status is {status}"
    if status == "partially_paid" and read.get("total_outstanding") is None:
        read.refuse("total_outstanding", "nothing", "what is still due: a gift card has paid a part")
    elif due < (whole := _total_in_shop(read, total, money)) and "total_outstanding" in read:
        if "gift_card" not in gateways or money.is_foreign:
            read.refuse("total_outstanding", due, f"{whole}, or a gift card for the rest")
        order["part_payments"] = [{"method": "gift_card", "amount": str(whole - due), "provider": "shopify"}]
    order["payment_info"] = {"method": method}
    return None


def _total_in_shop(read: Reading, total: Decimal, money: _Money) -> Decimal:
    """Returns the total in the shop's currency, which `total_outstanding` is in, too."""
    if not money.is_foreign:
        return total
    return read.amount("current_total_price" if "current_total_price" in read else "total_price")


def _transactions(read: Reading, money: _Money) -> list[tuple[str, Decimal, str | None]]:
    """Returns gateway, amount and reference of the payments that succeeded, if the payload has them."""
    found = [
        (each.text("gateway") or "", each.amount("amount"), each.text("authorization", "payment_id", "id"))
        for each in read.each("transactions")
        if each.text("kind") in ("sale", "capture")
        and each.text("status") == "success"
        and (each.text("currency") or money.currency) == money.currency
    ]
    read.skip("transactions")
    return found


def _add_paid(
    order: dict[str, Any],
    gateways: list[str],
    payments: list[tuple[str, Decimal, str | None]],
    total: Decimal,
    read: Reading,
) -> None:
    if _sum(amount for _, amount, _ in payments) != total:
        payments = []  # they do not say how it was paid
    if gateways == ["gift_card"] and not payments:
        payments = [("gift_card", total, None)]
    cards = [(amount, reference) for gateway, amount, reference in payments if gateway == "gift_card"]
    if cards:
        order["part_payments"] = [
            without_empty(
                {"method": "gift_card", "amount": str(amount), "provider": "shopify", "reference": reference}
            )
            for amount, reference in cards
        ]
    if _sum(amount for amount, _ in cards) < total:
        references = [reference for gateway, _, reference in payments if gateway != "gift_card" and reference]
        reference = cut(", ".join(references), 200) or f"gid://shopify/Order/{read.text('id')}"
        provider = cut(" + ".join(name for name in gateways if not cards or name != "gift_card"), 200)
        order["payment_info"] = {
            "method": ALREADY_PAID,
            "provider": provider or "shopify",
            "reference": reference,
        }


# -- customer and addresses


def _add_people(order: dict[str, Any], read: Reading) -> None:
    customer = read.part("customer")
    billing, shipping = (
        address(
            read.part(name),
            street="address",
            state=["province_code", "province"],
            zip_code="zip",
            country="country_code",
        )
        for name in ("billing_address", "shipping_address")
    )
    phone = read.text("phone") or customer.text("phone")
    if shipping and phone:
        shipping.setdefault("phone", phone)
    email = customer.text("email")
    order |= {
        "customer_id": customer.text("id"),
        "customer_name": full_name(customer) or billing.get("name") or shipping.get("name"),
        "customer_email": read.text("email", "contact_email") or email,
        "shipping_info": shipping,
        "billing_info": billing,
        "order_number": read.text("name", "order_number"),
        "ordered_at": read.text("processed_at", "created_at"),
        "locale": read.text("customer_locale"),
        "notes": read.text("note"),
        "metadata": _metadata(read),
    }
    if not shipping and any(not item.get("digital") for item in order.get("items", [])):
        read.refuse(
            "shipping_address",
            "nothing",
            "an address: what is collected or sold in a store is not shipped here",
        )


def _metadata(read: Reading) -> dict[str, Any]:
    codes = [code for each in read.each("discount_codes") if (code := each.text("code"))]
    return without_empty(
        {
            "source": read.text("source_name"),
            "tags": read.text("tags"),
            "po_number": read.text("po_number"),
            "discount_codes": cut(", ".join(codes), 500),
            "note_attributes": properties(
                (each.get("name"), each.get("value")) for each in read.each("note_attributes")
            ),
            "updated_at": read.text("updated_at"),
        }
    )
