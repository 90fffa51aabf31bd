"""What reconciliation can find."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class Kind(StrEnum):
    """One word for each way in which two books can differ."""

    CHARGED_WITHOUT_ORDER = "charged_without_order"
    """The gateway keeps money for an order that we never heard of."""
    CHARGED_NOT_COMPLETED = "charged_not_completed"
    """The order ended uncompleted, and the gateway keeps money for it. Mended: it is refunded."""
    NOT_CHARGED = "not_charged"
    """We say that it was charged, the gateway does not."""
    CHARGED_MORE_THAN_ONCE = "charged_more_than_once"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    REFUND_UNKNOWN_TO_GATEWAY = "refund_unknown_to_gateway"
    """We say that more was refunded than the gateway does."""
    REFUND_UNKNOWN_TO_US = "refund_unknown_to_us"
    """The gateway says that more was refunded than we do. Mended, by writing it down, where nothing is left to refund."""
    UNREADABLE = "unreadable"
    """What the gateway says of the order's payments makes no sense."""
    LEFT_UNCONFIRMED = "left_unconfirmed"
    """A payment of an ended order was created and never confirmed, and still could be. Mended: it is cancelled."""
    STOCK_ON_HAND = "stock_on_hand"
    """On hand + shipped is not what was received."""
    STOCK_RESERVED = "stock_reserved"
    """Reserved is not what the held reservations add up to."""
    RESERVATION_OF_ENDED_ORDER = "reservation_of_ended_order"
    RESERVATION_WITHOUT_ORDER = "reservation_without_order"
    INVENTORY_SERVICE_SILENT = "inventory_service_silent"
    """A service that orders have their stock at does not say what it has."""
    SHIPMENT_WITHOUT_ORDER = "shipment_without_order"
    SHIPMENT_OF_UNCOMPLETED_ORDER = "shipment_of_uncompleted_order"
    COMPLETED_WITHOUT_SHIPMENT = "completed_without_shipment"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One difference between two books."""

    kind: Kind
    ours: str
    """What we say."""
    theirs: str
    """What the gateway says; of stock, what its movements say."""
    order_id: str | None = None
    product_id: str | None = None
    amount: Decimal | None = None
    """The money in question."""
    currency: str | None = None
    payment_ids: tuple[str, ...] = ()
    mendable: bool = False
    """Whether it can be mended without guessing."""
    mended: bool = False
    remark: str | None = None
    """Why it could not be mended."""
    since: datetime | None = None
    """When it was found first, if it is about an order and was found before."""
