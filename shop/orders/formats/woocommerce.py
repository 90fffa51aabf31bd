"""Maps WooCommerce's orders: version 3 of its REST API, which its webhooks carry.

https://woocommerce.github.io/woocommerce-rest-api-docs/#order-properties

WooCommerce's line totals never contain taxes, whether or not the shop's prices do, so every tax is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

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
    "bacs": BANK_TRANSFER,
    "cheque": BANK_TRANSFER,
    "cod": CASH_ON_DELIVERY,
}
"""WooCommerce's own methods without a gateway."""
_UNPAID = frozenset({"pending", "on-hold", "failed", "checkout-draft", "auto-draft", "draft"})
_CANCELLED = frozenset({"cancelled", "trash"})
_SUBSCRIPTION = "billing_period"
"""Only a subscription, which is no order, has this field."""
_IRRELEVANT = tuple(
    """
    order_key created_via version customer_ip_address customer_user_agent cart_hash _links payment_url
    is_editable needs_payment needs_processing currency_symbol payment_method_title date_* parent_name image
    tax_class tax_status taxes tax_lines discount_total discount_tax shipping_total shipping_tax cart_tax
    total_tax subtotal_tax coupon_lines prices_include_tax bundled_by bundled_items bundled_item_title
    composite_parent composite_children item_downloads attribution refunds removed_line_items

    line_items[].id line_items[].price line_items[].global_unique_id line_items[].tax* shipping_lines[].id
    shipping_lines[].instance_id shipping_lines[].meta_data shipping_lines[].method_id fee_lines[].id
    fee_lines[].amount fee_lines[].meta_data
    """.split()
)
"""Fields of no interest: origin and state, sums of what is read, duplicates."""


def map_order(payload: Mapping[str, Any], options: Options) -> Mapped:
    """Maps one order."""
    read = Reading(payload)
    address = _address_of_shop(read)
    order: dict[str, Any] = {
        "id": f"{options.prefix_of(address)}{read.text('id')}",
        "currency": (read.text("currency") or "").upper(),
    }
    status = read.text("status")
    _check_state(read, status)
    _add_parts(order, read, options)
    waiting = _add_payment(order, read, status, options)
    _add_people(order, read, urlsplit(address).netloc.lower())
    cancelled = f"{status} in WooCommerce" if status in _CANCELLED else None
    ignored = read.unread(_IRRELEVANT)
    return Mapped(
        without_empty(order),
        ignored,
        tuple(read.problems),
        waiting,
        cancelled,
        shipped_there=status == "completed",
        not_to_ship=f"{status} in WooCommerce" if status in ("trash", "refunded") else None,
    )


def _address_of_shop(read: Reading) -> str:
    """Returns the web address of the shop that wrote the order; empty if the order does not say."""
    links = read.part("_links").get("self")
    link = links[0] if isinstance(links, list) and links else {}
    return str(link.get("href", "")) if isinstance(link, Mapping) else ""


# -- states


def _check_state(read: Reading, status: str | None) -> None:
    if _SUBSCRIPTION in read:
        read.refuse(_SUBSCRIPTION, "a subscription", "an order: each renewal of a subscription is one")
    if read.text("parent_id") not in (None, "0"):
        read.refuse("parent_id", "an order's id", "0: parts of another order are not shipped apart")
    back = sum((abs(each.amount("total")) for each in read.each("refunds")), Decimal(0))
    if status == "completed":
        read.refuse("status", status, "processing: its goods have left already")
    elif status == "refunded" or (status not in {"processing", *_UNPAID, *_CANCELLED}):
        given = status or "nothing"
        if status == "refunded":
            given = f"{given} ({back or read.amount('total')})"
        read.refuse("status", given, "processing, or on-hold with a manual payment method")
    if back or read.get("refunds"):
        read.refuse("refunds", f"{back} refunded", "an order without refunds")


# -- lines, shipping, fees


def _add_parts(order: dict[str, Any], read: Reading, options: Options) -> None:
    digital = "needs_processing" in read and not read.flag("needs_processing")
    items = [_item(line, options, digital) for line in read.each("line_items")]
    shipping = []
    for line in read.each("shipping_lines"):
        if (line.text("method_id") or "").startswith(("local_pickup", "pickup_location")):
            line.refuse("method_id", "local pickup", "a shipment: what is collected is not shipped here")
        taxed = amounts(tax_amount=line.amount("total_tax"))
        shipping.append({"title": line.text("method_title"), "amount": str(line.amount("total")), **taxed})
    fees, less = [], Decimal(0)
    for line in read.each("fee_lines"):
        amount, tax = line.amount("total"), line.amount("total_tax")
        if amount < 0 or tax < 0:
            less -= amount + tax
            line.skip("name")
        else:
            fees.append({"name": line.text("name"), "amount": str(amount), **amounts(tax_amount=tax)})
    order |= {"items": items, "shipping_lines": shipping, "fees": fees}
    total_tax = read.amount("total_tax")
    with_tax = [part for part in (*items, *shipping, *fees) if part.get("tax_amount")]
    negative = sum(
        (line.amount("total_tax") for line in read.each("fee_lines") if line.amount("total") < 0), Decimal(0)
    )
    if sum((Decimal(part["tax_amount"]) for part in with_tax), negative) != total_tax:
        for part in with_tax:
            del part["tax_amount"]
        order |= amounts(tax_amount=total_tax - negative)
    order |= amounts(discount_amount=less)
    order["total_amount"] = str(read.amount("total"))
    settle(order, read, "total", rounded=len(items) + len(shipping) + len(fees))


def _item(line: Reading, options: Options, digital: bool) -> dict[str, Any]:
    quantity, before, after = line.whole("quantity"), line.amount("subtotal"), line.amount("total")
    ids = {name: line.text(name) for name in ("sku", "variation_id", "product_id")}
    product = chosen_id({name: each for name, each in ids.items() if each != "0"}, options)
    if product is None:
        line.refuse("product_id", "nothing", "a sku, variation_id or product_id")
    if quantity is None or quantity <= 0:
        line.refuse("quantity", "nothing" if quantity is None else quantity, "1 or more")
    before = max(before, after)  # somebody may have raised the price of the line
    if after < 0:
        line.refuse("total", after, "0 or more: a line that gives money back is no line")
    made = {
        "product_id": product,
        "quantity": quantity,
        "name": line.text("name"),
        "sku": line.text("sku"),
        "properties": _meta(line),
        "digital": digital,
        **amounts(discount_amount=before - after, tax_amount=line.amount("total_tax")),
    }
    return without_empty(made) | {"line_total": str(before)}


def _meta(part: Reading) -> dict[str, str]:
    """Returns what customers see of the metadata. Names with `_` first are internal."""
    found = properties(
        (each.get("display_key") or each.get("key"), each.get("display_value") or each.get("value"))
        for each in part.each("meta_data")
    )
    part.skip("meta_data")
    return {name: value for name, value in found.items() if not name.startswith("_")}


# -- payment


def _add_payment(order: dict[str, Any], read: Reading, status: str | None, options: Options) -> str | None:
    """Returns why the order is not paid yet."""
    method, reference = read.text("payment_method"), read.text("transaction_id")
    paid = read.text("date_paid_gmt", "date_paid") is not None
    manual = mapping.manual_method(method or "", _MANUAL, options)
    if status in _UNPAID and not (status == "on-hold" and manual):
        return f"status is {status}"
    if status in _CANCELLED and not (paid or reference or manual):
        return f"status is {status}"
    if not Decimal(order["total_amount"]) or status == "refunded":
        return None
    if manual == CASH_ON_DELIVERY and reference is None:
        order["payment_info"] = {"method": manual}  # its date_paid is the day of delivery
    elif paid or reference:
        provider = method or "woocommerce"
        if provider.startswith("stripe"):  # also stripe_sepa and the like: the payment is one of the account
            provider, reference = "stripe", _stripe_payment(read) or reference
        order["payment_info"] = {
            "method": ALREADY_PAID,
            "provider": provider,
            "reference": reference or f"order {read.text('number', 'id')}",
        }
    elif manual:
        order["payment_info"] = {"method": manual}
    elif status == "processing":
        read.refuse("date_paid", "nothing", "the day of the payment, or a payment method without a gateway")
    return None


def _stripe_payment(read: Reading) -> str | None:
    """Returns the id of Stripe's PaymentIntent, which the transaction id, a charge's, is not."""
    ids = [each.text("value") for each in read.each("meta_data") if each.text("key") == "_stripe_intent_id"]
    return next(filter(None, ids), None)


# -- customer and addresses


def _add_people(order: dict[str, Any], read: Reading, host: str) -> None:
    bill_to = read.part("billing")
    billing, shipping = (
        address(each, street="address_", state=["state"], zip_code="postcode", country="country")
        for each in (bill_to, read.part("shipping"))
    )
    customer, created = read.text("customer_id"), read.text("date_created_gmt")
    physical = any(not item.get("digital") for item in order.get("items", []))
    order |= {
        "customer_id": None if customer == "0" else customer,
        "customer_name": full_name(bill_to) or shipping.get("name"),
        "customer_email": bill_to.text("email"),
        # Without another address WooCommerce means the one of the invoice.
        "shipping_info": (shipping if shipping.get("address") else billing) if physical else None,
        "billing_info": billing,
        "order_number": read.text("number"),
        "ordered_at": f"{created}Z" if created else None,
        "notes": read.text("customer_note"),
        "metadata": _metadata(read, host),
    }


def _metadata(read: Reading, host: str) -> dict[str, Any]:
    codes = [code for each in read.each("coupon_lines") if (code := each.text("code"))]
    modified = read.text("date_modified_gmt")
    return without_empty(
        {
            "shop": host,
            "coupons": cut(", ".join(codes), 500),
            "meta_data": _meta(read),
            "updated_at": f"{modified}Z" if modified else None,
        }
    )
