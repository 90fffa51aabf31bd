"""Maps Medusa's orders: the resource Order of its admin and store APIs, version 1 and 2.

https://docs.medusajs.com/api/admin#orders (2), https://docs.medusajs.com/v1/api/admin#orders (1)

Version 1 has amounts in the currency's smallest unit, version 2 decimals. Lines whose price contains the tax
are mapped with it, so that the unit price stays the one that the customer saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
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
from shop.orders.parts import ALREADY_PAID
from shop.text.card_numbers import cut
from shop.values import money

_UNPAID = frozenset({"not_paid", "awaiting", "authorized", "partially_authorized", "requires_action"})
_SECOND = ("summary", "payment_collections", "version", "item_total", "credit_lines")
"""Fields that only orders of version 2 have."""
_FIRST = ("cart_id", "tax_rate", "paid_total", "refundable_amount", "swaps", "object", "draft_order_id")
"""Fields that only orders of version 1 have."""
_MOVED = tuple(
    """
    fulfilled_quantity shipped_quantity delivered_quantity returned_quantity return_requested_quantity
    return_received_quantity return_dismissed_quantity written_off_quantity
    """.split()
)
_IRRELEVANT = tuple(
    """
    raw_* *_at object cart_id region_id region sales_channel* idempotency_key external_id version
    no_notification tax_rate draft_order* *address_id is_draft_order locale

    subtotal tax_total discount_total discount_tax_total discount_subtotal original_* item_* shipping_total
    shipping_subtotal shipping_tax_total shipping_discount_total paid_total refundable* fulfilled_total
    shipped_total return_*_total write_off_total taxed_total summary discounts promotions gift_cards
    gift_card_transactions payments payment_collections

    items[].id items[].thumbnail items[].cart_id items[].order_id items[].should_merge items[].detail
    items[].allow_discounts items[].is_discountable items[].is_custom_price items[].has_shipping
    items[].product_description items[].product_subtitle items[].product_type* items[].product_handle
    items[].product_collection items[].product_title items[].variant_barcode items[].subtitle
    items[].compare_at_unit_price items[].variant items[].product items[].adjustments items[].tax_lines
    items[].order_edit_id items[].original_item_id items[].variant_option_values items[].description
    items[].item_id items[].version

    shipping_methods[].id shipping_methods[].data shipping_methods[].shipping_option*
    shipping_methods[].detail shipping_methods[].*order_id shipping_methods[].cart_id
    shipping_methods[].adjustments shipping_methods[].tax_lines shipping_methods[].is_custom_amount
    shipping_methods[].description

    customer.* *_address.id *_address.customer_id *_address.country currency
    """.split()
)
"""Fields of no interest: origin and state, sums of what is read, duplicates, and what only programs
use."""


@dataclass(frozen=True, slots=True)
class _Money:
    """Reads amounts in the unit of the payload's version."""

    currency: str
    is_minor: bool

    def of(self, part: Reading, name: str) -> Decimal:
        amount = part.amount(name)
        if not self.is_minor:
            return amount
        if amount != amount.to_integral_value():
            part.refuse(name, amount, "a whole number of the currency's smallest unit (Medusa 1)")
            return Decimal(0)
        return money.from_minor(int(amount), self.currency)

    def rounded(self, amount: Decimal) -> Decimal:
        return amount.quantize(Decimal(1).scaleb(-money.decimals(self.currency)), ROUND_HALF_UP)


def map_order(payload: Mapping[str, Any], options: Options) -> Mapped:
    """Maps one order."""
    read = Reading(payload)
    currency = (read.text("currency_code") or "").upper()
    order: dict[str, Any] = {"id": f"{options.prefix}{read.text('id')}", "currency": currency}
    of = _Money(currency, _is_first(read))
    _check_state(read, of)
    _add_parts(order, read, of, options)
    waiting = _add_payment(order, read, options)
    _add_people(order, read)
    shipped = _is_shipped(read)
    is_cancelled = read.get("canceled_at") or read.text("status") == "canceled"
    cancelled = "cancelled in Medusa" if is_cancelled else None
    ignored = read.unread(_IRRELEVANT)
    return Mapped(without_empty(order), ignored, tuple(read.problems), waiting, cancelled, shipped)


def _is_first(read: Reading) -> bool:
    """Returns whether this is an order of Medusa 1. Refuses one whose version is unclear: its amounts
    could be a hundred times what they are."""
    methods, items = read.each("shipping_methods"), read.each("items")
    second = any(name in read for name in _SECOND) or any("amount" in each for each in methods)
    second |= any("detail" in each or "raw_unit_price" in each for each in items)
    first = any(name in read for name in _FIRST) or any("price" in each for each in methods)
    if second == first:
        given = "fields of both versions" if first else "fields of neither version"
        read.refuse("version", given, "summary or payment_collections (Medusa 2), or cart_id (Medusa 1)")
    return first and not second


# -- states


def _check_state(read: Reading, of: _Money) -> None:
    if (status := read.text("status")) not in ("pending", "canceled", None):
        read.refuse("status", status, "pending: the order is a draft, archived or completed")
    refunds = read.get("refunds")
    for name in ("swaps", "claims", "returns", "exchanges", "refunds", "credit_lines"):
        if read.get(name):
            back = ""
            if name == "refunds" and isinstance(refunds, list):
                back = f": {sum((of.of(each, 'amount') for each in read.each(name)), Decimal(0))} refunded"
            read.refuse(
                name, f"some {name}{back}", "an order without returns, exchanges, claims, refunds and credits"
            )
    for each in read.each("edits"):
        if each.text("status") not in ("confirmed", "declined", "canceled"):
            each.refuse("status", "an open edit", "an order without open edits")
    read.skip("edits")
    if read.get("order_change"):
        read.refuse("order_change", "an open edit", "an order without open edits")
    summary = read.part("summary")
    for name in ("refunded_total", "pending_difference"):
        if (amount := summary.amount(name)) and not (name == "pending_difference" and amount > 0):
            summary.refuse(name, amount, "0")
    if read.amount("refunded_total"):
        read.refuse("refunded_total", read.amount("refunded_total"), "0")


def _is_shipped(read: Reading) -> bool:
    state = read.text("fulfillment_status")
    shipped = state not in (None, "not_fulfilled", "canceled")
    if shipped:
        read.refuse(
            "fulfillment_status", str(state), "not_fulfilled: nothing of it is packed, shipped or returned"
        )
    for each in read.each("fulfillments"):
        if each.get("canceled_at") is None:
            shipped = True
            each.refuse("canceled_at", "nothing", "a cancelled fulfillment: goods are packed or have left")
    read.skip("fulfillments")
    return shipped


# -- lines, shipping, gift cards


def _add_parts(order: dict[str, Any], read: Reading, of: _Money, options: Options) -> None:
    lines, methods = read.each("items"), read.each("shipping_methods")
    inclusive = [line.flag("includes_tax") or line.flag("is_tax_inclusive") for line in (*lines, *methods)]
    with_tax = any(inclusive) and all(
        each or not (of.of(part, "unit_price") or of.of(part, "amount") or of.of(part, "price"))
        for each, part in zip(inclusive, (*lines, *methods), strict=True)
    )
    order["items"] = [_item(line, of, options, with_tax) for line in lines]
    order["shipping_lines"] = [_shipping(method, of, with_tax) for method in methods]
    order["prices_include_tax"] = with_tax
    parts = [*order["items"], *order["shipping_lines"]]
    total_tax, total = of.rounded(of.of(read, "tax_total")), of.of(read, "total")
    declared = sum((Decimal(part.get("tax_amount", 0)) for part in parts), Decimal(0))
    if declared != total_tax and (with_tax or not declared):
        for part in parts:
            part.pop("tax_amount", None)
        order |= amounts(tax_amount=total_tax)
    cards = of.of(read, "gift_card_total")
    read.skip("gift_card_tax_total")
    if cards:
        order["part_payments"] = [{"method": "gift_card", "amount": str(cards), "provider": "medusa"}]
    order["total_amount"] = str(of.rounded(total + cards))
    if not any("discount_amount" in part for part in parts):
        without = mapping.order_total(order)
        if (less := of.rounded(of.of(read, "discount_total"))) and without - less == Decimal(
            order["total_amount"]
        ):
            order |= amounts(discount_amount=less)
    settle(order, read, "total", rounded=len(parts) if not of.is_minor else 0)


def _item(line: Reading, of: _Money, options: Options, with_tax: bool) -> dict[str, Any]:
    quantity, price, variant = line.whole("quantity"), of.of(line, "unit_price"), line.part("variant")
    variant_sku = variant.text("sku")
    ids = {
        "sku": line.text("variant_sku") or variant_sku,
        "variant_id": line.text("variant_id"),
        "product_id": line.text("product_id") or variant.text("product_id"),
    }
    product = chosen_id(ids, options)
    if product is None:
        line.refuse(
            "variant_sku", "nothing", "a sku, variant_id or product_id: a custom item is not in the catalogue"
        )
    if quantity is None or quantity <= 0:
        line.refuse("quantity", "nothing" if quantity is None else quantity, "1 or more")
    if price < 0:
        line.refuse("unit_price", price, "0 or more")
    if line.flag("is_return") or line.get("swap_id", "claim_order_id"):
        line.refuse("is_return", "part of a return", "an ordered item")
    detail = line.part("detail")
    for part in (line, detail):
        for name in _MOVED:
            if moved := part.amount(name):
                part.refuse(name, moved, "0: pieces of the line are packed, shipped or returned")
    made = {
        "product_id": product,
        "quantity": quantity,
        "name": line.text("product_title", "title"),
        "sku": ids["sku"],
        "variant": line.text("variant_title") or variant.text("title"),
        "weight_grams": variant.whole("weight"),
        "properties": properties((name, value) for name, value in line.entries("metadata").items()),
        "digital": line.flag("is_giftcard")
        or ("requires_shipping" in line and not line.flag("requires_shipping")),
    }
    line.skip("title", "metadata", "requires_shipping")
    gross = price * (quantity or 0)
    return without_empty(made) | _priced(line, of, gross, with_tax, "line_total")


def _shipping(method: Reading, of: _Money, with_tax: bool) -> dict[str, Any]:
    title = method.text("name") or method.part("shipping_option").text("name")
    price = of.of(method, "amount") if "amount" in method else of.of(method, "price")
    return {"title": title, **_priced(method, of, price, with_tax, "amount")}


def _priced(part: Reading, of: _Money, gross: Decimal, with_tax: bool, name: str) -> dict[str, str]:
    """Returns the amounts of a line: before its discount, the discount, and the tax. Medusa's own `subtotal`
    contains no tax, its `total` does and has the discount taken off."""
    tax = of.rounded(of.of(part, "tax_total"))
    before = of.rounded(gross if with_tax or "subtotal" not in part else of.of(part, "subtotal"))
    off = Decimal(0)
    if "total" in part:
        off = before + (Decimal(0) if with_tax else tax) - of.rounded(of.of(part, "total"))
        if off < 0:
            part.refuse("total", of.of(part, "total"), f"at most {before + (0 if with_tax else tax)}")
    return {name: str(before), **amounts(discount_amount=max(off, Decimal(0)), tax_amount=tax)}


# -- payment


def _add_payment(order: dict[str, Any], read: Reading, options: Options) -> str | None:
    """Returns why the order is not paid yet."""
    status = read.text("payment_status")
    payments = [
        *read.each("payments"),
        *(each for collection in read.each("payment_collections") for each in collection.each("payments")),
    ]
    providers, references = [], []
    for each in payments:
        if each.get("canceled_at") is None:
            providers.append(each.text("provider_id") or "")
            references.append(each.part("data").text("id") or each.text("id") or "")
    cards = sum((Decimal(part["amount"]) for part in order.get("part_payments", ())), Decimal(0))
    if Decimal(order["total_amount"]) == cards:
        return None
    manual = {mapping.manual_method(each, {}, options) for each in providers}
    if status == "captured":
        order["payment_info"] = {
            "method": ALREADY_PAID,
            "provider": cut(" + ".join(_short(each) for each in providers if each), 200) or "medusa",
            "reference": cut(", ".join(each for each in references if each), 200) or str(read.text("id")),
        }
    elif status in _UNPAID:
        if len(manual) != 1 or (method := manual.pop()) is None:
            return f"payment_status is {status}"
        order["payment_info"] = {"method": method}
    else:
        read.refuse(
            "payment_status", status or "nothing", "captured, or awaiting with a manual payment provider"
        )
    return None


def _short(provider: str) -> str:
    """Returns `stripe` for Medusa 2's `pp_stripe_stripe`."""
    return provider.removeprefix("pp_").split("_")[0] if provider.startswith("pp_") else provider


# -- customer and addresses


def _add_people(order: dict[str, Any], read: Reading) -> None:
    customer = read.part("customer")
    parts = [read.part("billing_address"), read.part("shipping_address")]
    for part in parts:
        part.skip("metadata")
    billing, shipping = (
        address(each, street="address_", state=["province"], zip_code="postal_code", country="country_code")
        for each in parts
    )
    custom, number = read.text("custom_display_id"), read.text("display_id")
    updated = read.text("updated_at")
    order |= {
        "customer_id": read.text("customer_id") or customer.text("id"),
        "customer_name": full_name(customer) or billing.get("name") or shipping.get("name"),
        "customer_email": read.text("email") or customer.text("email"),
        "shipping_info": shipping,
        "billing_info": billing,
        "order_number": custom or (f"#{number}" if number else None),
        "ordered_at": read.text("created_at"),
        "metadata": without_empty({**properties(read.entries("metadata").items()), "updated_at": updated}),
    }
    if not shipping and any(not item.get("digital") for item in order.get("items", [])):
        read.refuse("shipping_address", "nothing", "an address: what is collected is not shipped here")
