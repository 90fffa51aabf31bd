"""Reports in the Prefect UI that an inventory service is unavailable, and that it is available again: in the
run's log, and as an event."""

from __future__ import annotations

import os
import socket

from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from shop.inventory.service import connections

UNAVAILABLE = "inventory.service.unavailable"
AVAILABLE = "inventory.service.available"


def report(url: str, why: str | None) -> None:
    """Reports a change of this process's circuit. `why`: the reason for opening it; None when the service is
    available again."""
    try:
        log = get_run_logger()
    except MissingContextError:
        log = get_logger("orders")
    if why is None:
        log.warning("the inventory service is available again: postponed orders continue by themselves")
    else:
        log.warning("the inventory service is unavailable and is not called for a while; orders that need it are postponed: %s", why)
    emit_event(
        AVAILABLE if why is None else UNAVAILABLE,
        resource={"prefect.resource.id": "shop.inventory.reservations-service"},
        payload={"why": why, "service": url, "seen_by": f"{socket.gethostname()}:{os.getpid()}"},
    )


connections.on_change(report)
