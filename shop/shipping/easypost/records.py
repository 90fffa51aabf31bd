"""Reads the needed parts of EasyPost's answers, with strict validation."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from shop.shipping.carrier import Rate, Shipment
from shop.shipping.errors import CarrierUnavailable

_HANDED_OVER = frozenset(
    {
        "in_transit",
        "out_for_delivery",
        "available_for_pickup",
        "delivered",
        "return_to_sender",
        "failure",
        "error",
    }
)
"""EasyPost's tracker states of parcels that the carrier has received, unlike `unknown`, `pre_transit` and
`cancelled`."""
VOIDED = frozenset({"submitted", "refunded", "not_applicable"})
"""Refund states of void labels. `submitted`: the carrier decides within weeks. `not_applicable`: it bills
only scanned parcels."""
Id = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
Word = Annotated[str, Field(min_length=1, max_length=100)]
"""A display name: of a carrier, or of its service."""


class RateRecord(BaseModel):
    id: Id
    carrier: Word
    service: Word
    rate: Annotated[Decimal, Field(ge=0, lt=10**9)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    shipment_id: str | None = None

    def to_rate(self) -> Rate:
        return Rate(self.id, self.carrier, self.service, self.rate, self.currency)


class LabelRecord(BaseModel):
    label_url: str | None = None
    label_pdf_url: str | None = None
    label_file_type: str | None = None

    @property
    def pdf(self) -> str | None:
        """The URL of the PDF, if there is one."""
        return self.label_pdf_url or (self.label_url if self.label_file_type == "application/pdf" else None)


class AddressRecord(BaseModel):
    name: str | None = None
    street1: str | None = None
    street2: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    country: str | None = None


class TrackerRecord(BaseModel):
    status: str | None = None
    tracking_code: str | None = None
    shipment_id: str | None = None


class ParcelRecord(BaseModel):
    weight: float | None = None


class MessageRecord(BaseModel):
    carrier: str | None = None
    message: Any = None


class ShipmentRecord(BaseModel):
    id: Id
    reference: str | None = None
    to_address: AddressRecord | None = None
    parcel: ParcelRecord | None = None
    tracking_code: Annotated[str, Field(pattern="^[ -~]{1,100}$")] | None = None
    refund_status: str | None = None
    postage_label: LabelRecord | None = None
    selected_rate: RateRecord | None = None
    tracker: TrackerRecord | None = None
    rates: list[RateRecord] = []
    messages: list[MessageRecord] = []

    @property
    def bought(self) -> bool:
        return self.postage_label is not None

    @property
    def voided(self) -> bool:
        return self.bought and self.refund_status in VOIDED

    @property
    def handed_over(self) -> bool:
        """Whether the carrier has received the parcel."""
        return self.tracker is not None and self.tracker.status in _HANDED_OVER

    def contradiction(self) -> str | None:
        """Returns which part belongs to another shipment; None if the record is consistent."""
        if any(
            rate.shipment_id not in {None, self.id}
            for rate in (*self.rates, *filter(None, [self.selected_rate]))
        ):
            return "shipment's rate"
        if self.tracker is not None and self.tracker.shipment_id not in {None, self.id}:
            return "shipment's tracker"
        if self.tracker is not None and self.tracker.tracking_code not in {None, self.tracking_code}:
            return "tracking number"
        offered = {rate.id: rate for rate in self.rates}
        if (
            self.selected_rate is not None
            and offered
            and self.selected_rate != offered.get(self.selected_rate.id)
        ):
            return "rate"
        return None

    def to_shipment(self, order_id: str) -> Shipment:
        if self.tracking_code is None or self.selected_rate is None:
            raise CarrierUnavailable("EasyPost answered a label without a tracking number")
        rate = self.selected_rate
        return Shipment(
            self.id,
            order_id,
            self.tracking_code,
            rate.carrier,
            rate.service,
            self.voided,
            rate.rate,
            rate.currency,
        )


T = TypeVar("T", bound=BaseModel)


def read(model: type[T], answer: Mapping[str, Any]) -> T:
    """Parses the answer. Raises `CarrierUnavailable` if it is invalid: the request may have been executed."""
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        fields = sorted(
            {".".join(map(str, e["loc"])) for e in error.errors(include_input=False, include_url=False)}
        )
        raise CarrierUnavailable(
            f"EasyPost's answer could not be interpreted, in: {', '.join(fields)[:200]}"
        ) from None
