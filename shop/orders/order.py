"""The order as a customer submits it.

The model checks the shape: names, types, exact decimals. `shop.orders.validation` checks the content and
reports all problems at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from saga.instance import SagaInstance
from shop.text.sanitize import one_line
from shop.values.money import to_minor

_CENT = Decimal("0.01")
_MAX_DIGITS, _MAX_DECIMALS = 18, 6
_LARGEST = 10 ** (_MAX_DIGITS - _MAX_DECIMALS) - 1
"""The largest number in an order. Larger parameters (over 64 bits) break the Prefect server's list of
runs."""
_EXACT = Context(prec=80)
"""Python's default context would round numbers with more than 28 digits."""
_USUAL_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,11})\.[0-9]{2}")
"""The usual spelling of amounts, which needs no further check."""


def _amount(value: Any) -> Decimal:
    """Returns the exact amount in one spelling: 9.9, 9.90 and 9.900 are the same order. A JSON float
    counts as its shortest decimal spelling. Booleans are not amounts."""
    if type(value) is str and _USUAL_AMOUNT.fullmatch(value):
        return Decimal(value)
    if isinstance(value, float):
        value = repr(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | Decimal)
        or (isinstance(value, str) and len(value) > 40)
    ):
        raise ValueError("an amount such as 9.99")
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):  # ValueError: an integer of thousands of digits
        raise ValueError("an amount such as 9.99") from None
    _, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or len(digits) > 60:
        raise ValueError("a finite amount" if len(digits) <= 60 else "an amount such as 9.99")
    if amount.adjusted() >= _MAX_DIGITS - _MAX_DECIMALS:
        raise ValueError(f"an amount of at most {_MAX_DIGITS - _MAX_DECIMALS} digits before the point")
    if not amount:
        return Decimal("0.00")
    if exponent == -2:
        return amount
    amount = amount.normalize(_EXACT)
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS:
        raise ValueError(f"an amount of at most {_MAX_DECIMALS} decimals")
    return amount if exponent < -2 else amount.quantize(_CENT)


Amount = Annotated[
    Decimal,
    PlainValidator(_amount),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
                {"type": "string", "pattern": r"^-?\d{1,12}(\.\d{1,6})?$"},
            ]
        }
    ),
]
"""Money without currency: up to twelve digits before the point and six after it."""


def _text(value: Any) -> Any:
    """Accepts numbers as ids and zip codes, as some shops send them."""
    if type(value) is str:
        return value
    return (
        str(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30
        else value
    )


Text = Annotated[str, BeforeValidator(_text)]


def _whole(value: Any) -> Any:
    """Limits a decimal before it becomes an integer, which takes minutes for 1e999999999. Rejects
    booleans, which Python counts as integers."""
    if isinstance(value, bool) or (isinstance(value, Decimal) and not value.is_finite()):
        raise ValueError("a whole number")
    if isinstance(value, Decimal) and (
        abs(value.adjusted()) > _MAX_DIGITS or len(value.as_tuple().digits) > 60
    ):
        raise ValueError(f"a whole number of at most {_MAX_DIGITS - _MAX_DECIMALS} digits")
    return value


Pieces = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST), BeforeValidator(_whole)]


def _with_positions(schema: dict[str, Any]) -> None:
    """Adds the fields' sequence for forms (Prefect's keyword `position`), which JSON in a database loses."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        json_schema_extra=_with_positions,
        hide_input_in_errors=True,
    )


class Item(_Part):
    """One line of an order."""

    product_id: Text = Field(description="The catalogue's id of the product", examples=["PROD-001"])
    quantity: Pieces = Field(description="How many pieces", examples=[1])
    price: Amount = Field(description="Price of one piece, in the order's currency", examples=["999.99"])
    name: Text | None = Field(default=None, description="Name as the customer saw it")


class PaymentInfo(_Part):
    """The means of payment. Never a full card number."""

    method: Text = Field(
        description="credit_card, debit_card, paypal, apple_pay or google_pay", examples=["credit_card"]
    )
    # The maximum length keeps a full card number out of a run's parameters: the Prefect server refuses the
    # run before it stores them.
    card_last4: Annotated[Text, WithJsonSchema({"type": "string", "maxLength": 6})] | None = Field(
        default=None, description="The card's last four digits, never more", examples=["1234"]
    )
    token: Text | None = Field(default=None, description="The gateway's token for the card, if there is one")


class ShippingInfo(_Part):
    """The parcel's destination."""

    name: Text | None = Field(default=None, description="Recipient; the customer's name if left out")
    address: Text = Field(description="Street and number", examples=["123 Main St"])
    address2: Text | None = Field(
        default=None, description="Apartment, floor, company: the label's second line"
    )
    city: Text = Field(examples=["Anytown"])
    state: Text | None = Field(default=None, examples=["CA"])
    zip: Text | None = Field(default=None, examples=["90210"])
    country: Text = Field(description="ISO 3166 code of two letters", examples=["US"])
    phone: Text | None = Field(default=None, description="For the carrier, which requires it across borders")


EXAMPLE: dict[str, Any] = {
    "id": "ORDER-1001",
    "customer_id": "CUST-123",
    "items": [
        {"product_id": "PROD-001", "quantity": 1, "price": "999.99", "name": "Laptop"},
        {"product_id": "PROD-002", "quantity": 2, "price": "29.99", "name": "Mouse"},
    ],
    "total_amount": "1059.97",
    "currency": "USD",
    "customer_name": "John Doe",
    "customer_email": "john.doe@example.com",
    "payment_info": {"method": "credit_card", "card_last4": "1234"},
    "shipping_info": {
        "name": "John Doe",
        "address": "123 Main St",
        "city": "Anytown",
        "state": "CA",
        "zip": "90210",
        "country": "US",
    },
}
"""The example order of forms and documentation."""


class Order(_Part):
    """A customer's order."""

    id: Text = Field(
        description="The order's id: submitting the same id again does not create another order",
        examples=["ORDER-1001"],
    )
    customer_id: Text = Field(description="Who orders", examples=["CUST-123"])
    items: list[Item] = Field(description="The ordered products")
    total_amount: Amount = Field(
        description="What the customer agreed to pay: items + tax + shipping - discount", examples=["1059.97"]
    )
    currency: Annotated[Text, AfterValidator(str.upper)] = Field(
        description="ISO 4217 code", examples=["USD"]
    )
    customer_name: Text | None = Field(default=None, examples=["John Doe"])
    customer_email: Text | None = Field(
        default=None, description="Where the confirmation goes", examples=["john.doe@example.com"]
    )
    payment_info: PaymentInfo | None = Field(
        default=None, description="Without it the order can be checked, but not charged"
    )
    shipping_info: ShippingInfo | None = Field(
        default=None, description="Without it the order can be checked, but not charged"
    )
    tax_amount: Amount = Field(default=Decimal("0.00"))
    shipping_amount: Amount = Field(default=Decimal("0.00"))
    discount_amount: Amount = Field(default=Decimal("0.00"))
    notes: Text | None = Field(
        default=None, description="The customer's own words; never shown to a language model or printed"
    )

    @property
    def addressee(self) -> str:
        """The name for mails, in one line: the customer's, else the recipient's, else empty."""
        return one_line(self.customer_name) or one_line(
            self.shipping_info.name if self.shipping_info else None
        )

    @property
    def items_total(self) -> Decimal:
        """The sum of price times quantity."""
        return sum((item.price * item.quantity for item in self.items), Decimal(0))

    @property
    def total_minor(self) -> int:
        """The total in the currency's smallest unit."""
        return to_minor(self.total_amount, self.currency)

    @property
    def wanted(self) -> dict[str, int]:
        """Pieces per product; lines with the same product are added."""
        wanted: dict[str, int] = {}
        for item in self.items:
            wanted[item.product_id] = wanted.get(item.product_id, 0) + item.quantity
        return wanted


def read_stored(content: Mapping[str, Any]) -> Order:
    """Reads an order from its row in `customer_order`. Older versions did not require currency and country
    and assumed USD and US."""
    filled = {"currency": "USD", **content}
    if isinstance(address := content.get("shipping_info"), Mapping):
        filled["shipping_info"] = {"country": "US", **address}
    return Order.model_validate(filled)


OrderInstance = SagaInstance[Order]
"""An order that a worker has claimed."""
