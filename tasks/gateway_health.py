"""Reports in the Prefect UI that the payment gateway is unavailable, and that it is available again: in the
run's log, and as an event."""

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


def report(why: str | None) -> None:
    """Reports a change of this process's circuit. `why`: the reason for opening it; None when the gateway is
    available again."""
    try:
        log = get_run_logger()
    except MissingContextError:
        log = get_logger("orders")
    if why is None:
        log.warning("the payment gateway is available again: postponed orders continue by themselves")
    else:
        log.warning("the payment gateway is unavailable and is not called for a while; orders that need it are postponed: %s", why)
    emit_event(
        AVAILABLE if why is None else UNAVAILABLE,
        resource={"prefect.resource.id": f"shop.payment-gateway.{settings().payments.gateway}"},
        payload={"why": why, "seen_by": f"{socket.gethostname()}:{os.getpid()}"},
    )


gateways.on_change(report)
