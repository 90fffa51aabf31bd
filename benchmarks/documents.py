"""Measures what a label and a mail cost: milliseconds of a core (not of a clock) for each, the median, in one
thread, without the database. Prints its result as a line of JSON.

    python -m benchmarks.documents mail 2000
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.suite import P50, Measured
from shop.notifications.kinds import Kind
from shop.notifications.mail import MailContext, mail
from shop.notifications.maildir import Maildir, mail_names
from shop.orders.order import EXAMPLE, read_stored
from shop.settings import settings
from shop.shipping.labels.content import Parcel, parcel_of
from shop.shipping.labels.pdf import render_pdf
from shop.shipping.labels.zpl import render_zpl

_TEXTS = {
    "greeting": "Hello John Doe,",
    "summary": "thank you for your order. We have received your payment of 1,059.97 USD.",
    "next_steps": "Your parcel leaves our warehouse today. It is expected in 3-5 business days.",
    "tracking": "You can follow it with the number below.",
}


def _order(number: int) -> dict[str, Any]:
    return {**EXAMPLE, "id": f"bench-no{number}"}


def _parcel(number: int) -> Parcel:
    s = settings().shop
    return parcel_of(
        read_stored(_order(number)),
        tracking_number=f"CA{number:08d}9US",
        carrier="Embedded Carrier",
        service="Standard",
        sender=(s.name, s.address),
    )


def _mails(folder: Path) -> Callable[[int], None]:
    context, maildir = MailContext(settings(), datetime.now(UTC), "bench"), Maildir(folder / "mail")

    def write(number: int) -> None:
        """As `shop.notifications.senders` does it."""
        order = read_stored(_order(number))
        payload = {"tracking_number": f"CA{number:08d}9US", "confirmation": _TEXTS}
        name, *before = mail_names(order.id, Kind.CONFIRMATION)
        maildir.write(name, mail(order, Kind.CONFIRMATION, payload, context), before=before)

    return write


KINDS: dict[str, Callable[[Path], Callable[[int], object]]] = {
    "label_pdf": lambda _: lambda number: render_pdf(_parcel(number)),
    "label_zpl": lambda _: lambda number: render_zpl(_parcel(number)),
    "mail": _mails,
}


def measure(kind: str, number: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:
        make = KINDS[kind](Path(folder))
        make(0)  # loads fonts and templates
        seconds = []
        for each in range(1, number + 1):
            begin = time.process_time()
            make(each)
            seconds.append(time.process_time() - begin)
    return {"orders": number, P50: statistics.median(seconds) * 1000}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("number", type=int)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(measure(options.kind, options.number)) + "\n")
