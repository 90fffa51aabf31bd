"""The parts of an order: lines, extra charges, means of payment, addresses."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from shop.orders.scalars import (
    Amount,
    AmountOrZero,
    Flag,
    OptionalAmount,
    OptionalPieces,
    OptionalText,
    Pieces,
    Properties,
    Text,
)

_NOTHING = Decimal("0.00")


def with_positions(schema: dict[str, Any]) -> None:
    """Adds the fields' sequence for forms (Prefect's keyword `position`), which JSON in a database loses."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Part(BaseModel):
    """A part of an order. Unknown fields are ignored here: intake reports or refuses them."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        json_schema_extra=with_positions,
        hide_input_in_errors=True,
    )


class Item(Part):
    """One line of an order. It costs `line_total`, or `price` times `quantity`, less its discount."""

    product_id: Text = Field(description="The catalogue's id of the product", examples=["PROD-001"])
    quantity: Pieces = Field(description="How many pieces", examples=[1])
    price: OptionalAmount = Field(
        default=None,
        description="Price of one piece, in the order's currency, with up to six decimals; "
        "it can be left out if there is a line_total",
        examples=["999.99"],
    )
    name: OptionalText = Field(default=None, description="Name as the customer saw it")
    line_total: OptionalAmount = Field(
        default=None, description="Price of all pieces together, before discount_amount: it counts"
    )
    discount_amount: AmountOrZero = Field(default=_NOTHING, description="Discount on this line, all pieces")
    tax_amount: AmountOrZero = Field(default=_NOTHING, description="Tax on this line, all pieces")
    sku: OptionalText = Field(default=None, description="The shop's article number")
    variant: OptionalText = Field(default=None, description="Size, colour and the like")
    weight_grams: OptionalPieces = Field(default=None, description="Weight of one piece, in grams")
    properties: Properties = Field(
        default=None, description="What the customer chose for this line, such as an engraving"
    )
    digital: Flag = Field(default=False, description="Whether it needs no shipment")


class ShippingLine(Part):
    """A charge for shipping."""

    title: OptionalText = Field(default=None, description="Name as the customer saw it", examples=["Express"])
    amount: Amount
    discount_amount: AmountOrZero = _NOTHING
    tax_amount: AmountOrZero = _NOTHING


class Fee(Part):
    """An extra charge, such as for gift wrapping."""

    name: OptionalText = Field(
        default=None, description="Name as the customer saw it", examples=["Gift wrapping"]
    )
    amount: Amount
    tax_amount: AmountOrZero = _NOTHING


class PartPayment(Part):
    """A part of the total that is paid already: nothing of it is charged."""

    method: Text = Field(description="gift_card, store_credit or other", examples=["gift_card"])
    amount: Amount
    reference: OptionalText = Field(default=None, description="The provider's id of it; no gift card's code")
    provider: OptionalText = Field(default=None, description="Who has the money")


class PaymentInfo(Part):
    """The means of payment. Never a full card number."""

    method: Text = Field(
        description="credit_card, debit_card, paypal, apple_pay or google_pay (charged here); "
        "already_paid, bank_transfer or cash_on_delivery (nothing is charged)",
        examples=["credit_card"],
    )
    # The maximum length keeps a full card number out of a run's parameters: the Prefect server refuses the
    # run before it stores them.
    card_last4: Annotated[OptionalText, WithJsonSchema({"type": "string", "maxLength": 6})] = Field(
        default=None, description="The card's last four digits, never more", examples=["1234"]
    )
    token: OptionalText = Field(default=None, description="The gateway's token for the card, if there is one")
    reference: OptionalText = Field(
        default=None, description="Of an order that is already paid: the provider's id of the payment"
    )
    provider: OptionalText = Field(
        default=None, description="Of an order that is already paid: who has the money, such as stripe"
    )


class Address(Part):
    """Fields that every address has."""

    name: OptionalText = Field(default=None, description="Recipient; the customer's name if left out")
    company: OptionalText = Field(default=None, description="The label's line after the name")
    address: OptionalText = Field(default=None, description="Street and number", examples=["123 Main St"])
    address2: OptionalText = Field(
        default=None, description="Apartment, floor: the label's line after the street"
    )
    city: OptionalText = Field(default=None, examples=["Anytown"])
    state: OptionalText = Field(default=None, examples=["CA"])
    zip: OptionalText = Field(default=None, examples=["90210"])
    country: OptionalText = Field(default=None, description="ISO 3166 code of two letters", examples=["US"])
    phone: OptionalText = Field(default=None, description="For the carrier, which requires it across borders")


class ShippingInfo(Address):
    """The parcel's destination."""

    address: Text = Field(description="Street and number", examples=["123 Main St"])
    city: Text = Field(examples=["Anytown"])
    country: Text = Field(description="ISO 3166 code of two letters", examples=["US"])


class BillingInfo(Address):
    """Whom the invoice is for. Kept for a person to see; nothing is sent there."""

    vat_id: OptionalText = Field(default=None, description="The company's VAT number")


CHARGED = ("credit_card", "debit_card", "paypal", "apple_pay", "google_pay")
"""Methods that the payment gateway charges."""
ALREADY_PAID = "already_paid"
"""The shop has the money, or its payment provider has it for the shop."""
BANK_TRANSFER = "bank_transfer"
CASH_ON_DELIVERY = "cash_on_delivery"
METHODS = (*CHARGED, ALREADY_PAID, BANK_TRANSFER, CASH_ON_DELIVERY)

GIFT_CARD, STORE_CREDIT = "gift_card", "store_credit"
PART_METHODS = (GIFT_CARD, STORE_CREDIT, "other")
"""What can have paid a part of an order."""
