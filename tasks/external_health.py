"""Reports in the Prefect UI when an external system becomes unavailable or available again: in the run's log
and as an event."""

from __future__ import annotations

import os
import socket

from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from shop.inventory.service import connections
from shop.payments import gateways
from shop.settings import settings

GATEWAY, INVENTORY = "payment.gateway", "inventory.service"
"""The first part of the events' names."""


def unavailable(system: str) -> str:
    """Returns the name of the event that the system is unavailable."""
    return f"{system}.unavailable"


def available(system: str) -> str:
    """Returns the name of the event that the system is available again."""
    return f"{system}.available"


def report_gateway(why: str | None) -> None:
    """Reports a change of this process's circuit. `why`: the reason for opening it; None: the gateway is
    available again."""
    _report(GATEWAY, "the payment gateway", f"shop.payment-gateway.{settings().payments.gateway}", why)


def report_inventory(url: str, why: str | None) -> None:
    """Reports a change of this process's circuit of an inventory service, as `report_gateway` does."""
    _report(INVENTORY, "the inventory service", "shop.inventory-service", why, service=url)


def _report(system: str, title: str, resource: str, why: str | None, **payload: str) -> None:
    try:
        log = get_run_logger()
    except MissingContextError:
        log = get_logger("orders")
    if why is None:
        log.warning("%s is available again: postponed orders continue by themselves", title)
    else:
        log.warning(
            "%s is unavailable and is not called for a while; orders that need it are postponed: %s",
            title,
            why,
        )
    emit_event(
        available(system) if why is None else unavailable(system),
        resource={"prefect.resource.id": resource},
        payload={"why": why, **payload, "seen_by": f"{socket.gethostname()}:{os.getpid()}"},
    )


gateways.on_change(report_gateway)
connections.on_change(report_inventory)
