"""The order as a customer submits it.

The model checks the shape: names, types, exact decimals (`shop.orders.parts`, `shop.orders.scalars`).
`shop.orders.validation` checks the content and reports all problems at once; `shop.orders.amounts` says what
the total is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from saga.instance import SagaInstance
from shop.orders.parts import (
    BillingInfo,
    Fee,
    Item,
    Part,
    PartPayment,
    PaymentInfo,
    ShippingInfo,
    ShippingLine,
)
from shop.orders.scalars import (
    Amount,
    AmountOrZero,
    Currency,
    Flag,
    Listed,
    Metadata,
    Moment,
    OptionalText,
    Text,
    none_if_left_out,
)
from shop.text.sanitize import one_line

_NOTHING = Decimal("0.00")
_LeftOut = BeforeValidator(none_if_left_out)

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


class Order(Part):
    """A customer's order."""

    id: Text = Field(
        description="The order's id: submitting the same id again does not create another order",
        examples=["ORDER-1001"],
    )
    customer_id: OptionalText = Field(
        default=None,
        description="Who orders; it can be left out for a guest with an e-mail address",
        examples=["CUST-123"],
    )
    items: list[Item] = Field(description="The ordered products")
    total_amount: Amount = Field(
        description="What the customer agreed to pay: items + tax + shipping + fees + tip - discounts",
        examples=["1059.97"],
    )
    currency: Currency = Field(description="ISO 4217 code", examples=["USD"])
    customer_name: OptionalText = Field(default=None, examples=["John Doe"])
    customer_email: OptionalText = Field(
        default=None, description="Where the confirmation goes", examples=["john.doe@example.com"]
    )
    payment_info: Annotated[PaymentInfo | None, _LeftOut] = Field(
        default=None, description="What pays the total less part_payments. Needed unless that is zero"
    )
    shipping_info: Annotated[ShippingInfo | None, _LeftOut] = Field(
        default=None, description="Needed unless every item is digital"
    )
    tax_amount: AmountOrZero = Field(default=_NOTHING, description="Tax, besides that of single lines")
    shipping_amount: AmountOrZero = Field(
        default=_NOTHING, description="Shipping, besides that of shipping_lines"
    )
    discount_amount: AmountOrZero = Field(
        default=_NOTHING, description="Discount, besides those of single lines"
    )
    notes: OptionalText = Field(
        default=None, description="The customer's own words; never shown to a language model or printed"
    )
    prices_include_tax: Flag = Field(
        default=False, description="Whether the prices contain the tax; then no tax is added"
    )
    shipping_lines: Annotated[tuple[ShippingLine, ...], Listed] = Field(default=())
    fees: Annotated[tuple[Fee, ...], Listed] = Field(default=())
    tip_amount: AmountOrZero = Field(default=_NOTHING)
    part_payments: Annotated[tuple[PartPayment, ...], Listed] = Field(
        default=(), description="Parts of the total that are paid already, such as by gift card"
    )
    billing_info: Annotated[BillingInfo | None, _LeftOut] = Field(
        default=None, description="Whom the invoice is for, if not the recipient"
    )
    order_number: OptionalText = Field(
        default=None, description="What the customer knows the order by, beside its id", examples=["#1071"]
    )
    ordered_at: Moment = Field(default=None, description="When the customer ordered, with a time zone")
    locale: OptionalText = Field(
        default=None, description="The language of the mails, such as de or de-AT; else the country decides"
    )
    metadata: Metadata = Field(
        default=None,
        description="Whatever the shop wants to find with the order; never sent to a language model",
    )

    @property
    def number(self) -> str:
        """The number by which the customer knows the order, in one line."""
        return one_line(self.order_number) or one_line(self.id)

    @property
    def addressee(self) -> str:
        """The name for mails, in one line: the customer's, else the recipient's, else empty."""
        return one_line(self.customer_name) or one_line(
            self.shipping_info.name if self.shipping_info else None
        )

    @property
    def needs_shipment(self) -> bool:
        """Whether anything in it has to be shipped."""
        return any(not item.digital for item in self.items)

    @property
    def paid_in_part(self) -> Decimal:
        """The sum of the part payments."""
        return sum([part.amount for part in self.part_payments], _NOTHING)

    @property
    def amount_due(self) -> Decimal:
        """What `payment_info` pays: the total less the part payments."""
        return self.total_amount - self.paid_in_part if self.part_payments else self.total_amount

    @property
    def wanted(self) -> dict[str, int]:
        """Pieces to reserve and ship per product; lines with the same product are added. Digital items are
        neither."""
        wanted: dict[str, int] = {}
        for item in self.items:
            if not item.digital:
                wanted[item.product_id] = wanted.get(item.product_id, 0) + item.quantity
        return wanted


def read_stored(content: Mapping[str, Any]) -> Order:
    """Reads an order from its row in `customer_order`. Older versions did not require currency and country
    and assumed USD and US."""
    filled = {"currency": "USD", **content}
    if isinstance(address := content.get("shipping_info"), Mapping):
        filled["shipping_info"] = {"country": "US", **address}
    return Order.model_validate(filled)


def customer_of(content: Mapping[str, Any]) -> str | None:
    """Returns the customer's id in an order's content, which may be invalid; None for a guest."""
    given = content.get("customer_id")
    return str(given) if isinstance(given, str | int) and given != "" else None


OrderInstance = SagaInstance[Order]
"""An order that a worker has claimed."""
