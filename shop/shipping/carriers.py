"""External carriers, one client of each per event loop, and the carrier of an order's parcel."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from shop.orders.order import OrderInstance
from shop.runtime.extras import needs_extra
from shop.settings import settings
from shop.shipping.carrier import Carrier
from shop.shipping.embedded import EmbeddedCarrier
from shop.shipping.errors import CarrierMisconfigured

STEP = "fulfill_order"
EMBEDDED = EmbeddedCarrier.name
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Carrier]] = WeakKeyDictionary()


def _easypost() -> Carrier:
    with needs_extra("easypost", "CARRIER=easypost"):
        # Imported here, because its SDK takes a fifth of a second to load.
        from shop.shipping.easypost.carrier import EasyPostCarrier

    s = settings()
    if s.easypost.api_key is None or s.easypost.sender is None:
        raise CarrierMisconfigured("a parcel of EasyPost needs EASYPOST_API_KEY and CARRIER_SENDER: set both")
    return EasyPostCarrier(s, s.easypost.api_key.get_secret_value(), s.easypost.sender)


_CHOICES = {"easypost": _easypost}


def carrier(name: str) -> Carrier:
    """Returns the running event loop's external carrier with this name. Raises `CarrierMisconfigured`."""
    carriers = _open.setdefault(asyncio.get_running_loop(), {})
    if name not in carriers:
        carriers[name] = _CHOICES[name]()
    return carriers[name]


def carrier_of(order: OrderInstance) -> str:
    """Returns the name of the carrier of the order's parcel: the journalled one, as settings may have changed
    since."""
    entry = order.journal.get(STEP)
    return (
        str(entry.notes.get("carrier", settings().shipping.carrier)) if entry else settings().shipping.carrier
    )


async def close_carriers() -> None:
    """Closes the running loop's connections."""
    for each in _open.pop(asyncio.get_running_loop(), {}).values():
        await each.aclose()
