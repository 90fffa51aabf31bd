"""Safe names made of order ids, which are untrusted input."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

MAX_ORDER_ID = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_DOTS = re.compile(r"\.{2,}")
_UNSAFE_CHARACTER = re.compile(r"[^A-Za-z0-9._-]+")


def stem(order_id: str) -> str:
    """Returns the base of keys and references, unique per order id. Plain ids are kept; others are
    shortened and get a digest. ASCII without separators or a leading dot, at most 80 characters. For
    files, use `file_stems`."""
    return order_id if _SAFE.fullmatch(order_id) and ".." not in order_id else _digested(order_id)


def file_stems(order_id: str) -> tuple[str, ...]:
    """Returns an order's file name without suffix, unique also on a disk that ignores case: an id with
    lower-case letters gets a digest. If earlier versions used another name, it follows."""
    name = before = stem(order_id)
    if name == order_id and name != name.upper():
        name = _digested(order_id)
    return (name,) if name == before else (name, before)


def _digested(order_id: str) -> str:
    slug = _DOTS.sub(".", _UNSAFE_CHARACTER.sub("-", order_id)).strip(".-")[:40]
    return f"{slug or 'order'}~{hashlib.sha256(order_id.encode()).hexdigest()[:24]}"


def own_name(installation: str, order_id: str) -> str:
    """Returns an order's name for systems that several installations share, such as a carrier account. At
    most 80 ASCII characters, unique per installation and order."""
    room = 79 - len(installation)
    name = stem(order_id)
    if len(name) > room:
        name = f"{name[: room - 25]}~{hashlib.sha256(order_id.encode()).hexdigest()[:24]}"
    return f"{installation}-{name}"


def key(order_id: str, step: str) -> str:
    """Returns the idempotency key of an order's step: derived from both, never from a clock or a random
    number. At most 255 ASCII characters, as gateways require."""
    return f"{step}-{stem(order_id)}"


def run_name(what: str, order: object) -> str:
    """Returns a Prefect run's name with the order's id, whatever the order parameter is. One line, at most
    120 characters."""
    given = order.get("id") if isinstance(order, Mapping) else getattr(order, "id", None)
    shown = _CONTROL.sub(" ", str(given)) if isinstance(given, str | int) else "without an id"
    return f"{what} {shown[:100]}"
