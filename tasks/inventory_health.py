"""Saying in the Prefect UI that an inventory service is away, and that it is back: in the run's log, and as an event."""

from __future__ import annotations

import os
import socket

from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from shop.stock import inventories

UNAVAILABLE = "inventory.service.unavailable"
AVAILABLE = "inventory.service.available"


def tell(url: str, why: str | None) -> None:
    """Once for each change, as this process sees it. `why`: None when the service answers again."""
    try:
        log = get_run_logger()
    except MissingContextError:
        log = get_logger("orders")
    if why is None:
        log.warning("the inventory service answers again: orders that were put off go on by themselves")
    else:
        log.warning("the inventory service is left alone for a while, and orders that need it are put off: %s", why)
    emit_event(
        AVAILABLE if why is None else UNAVAILABLE,
        resource={"prefect.resource.id": "shop.inventory-service"},
        payload={"why": why, "service": url, "seen_by": f"{socket.gethostname()}:{os.getpid()}"},
    )


inventories.on_change(tell)
