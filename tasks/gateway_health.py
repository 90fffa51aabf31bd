"""Saying in the Prefect UI that the payment gateway is away, and that it is back: in the run's log, and as an event."""

from __future__ import annotations

import os
import socket

from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from shop.payments import gateways
from shop.settings import settings

UNAVAILABLE = "payment.gateway.unavailable"
AVAILABLE = "payment.gateway.available"


def tell(why: str | None) -> None:
    """Once for each change, as this process sees it. `why`: None when the gateway answers again."""
    try:
        log = get_run_logger()
    except MissingContextError:
        log = get_logger("orders")
    if why is None:
        log.warning("the payment gateway answers again: orders that were put off go on by themselves")
    else:
        log.warning("the payment gateway is left alone for a while, and orders that need it are put off: %s", why)
    emit_event(
        AVAILABLE if why is None else UNAVAILABLE,
        resource={"prefect.resource.id": f"shop.payment-gateway.{settings().payment_gateway}"},
        payload={"why": why, "seen_by": f"{socket.gethostname()}:{os.getpid()}"},
    )


gateways.on_change(tell)
