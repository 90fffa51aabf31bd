"""Safe names made of order ids, which anybody may have typed."""

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
    """What keys and references are made of, the same for the same id and never for two: ids of plain characters as they are, others
    shortened and told apart by a digest. No separators, no leading dot, ASCII, at most 80 characters. Not for files: see `file_stems`."""
    return order_id if _SAFE.fullmatch(order_id) and ".." not in order_id else _digested(order_id)


def file_stems(order_id: str) -> tuple[str, ...]:
    """A file's name without its ending, never the same for two ids, also where a disk does not tell `Order-1` from `ORDER-1`: ids with
    small letters have a digest, too. Then the name that earlier versions gave it, if that was another."""
    name = before = stem(order_id)
    if name == order_id and name != name.upper():
        name = _digested(order_id)
    return (name,) if name == before else (name, before)


def _digested(order_id: str) -> str:
    slug = _DOTS.sub(".", _UNSAFE_CHARACTER.sub("-", order_id)).strip(".-")[:40]
    return f"{slug or 'order'}~{hashlib.sha256(order_id.encode()).hexdigest()[:24]}"


def own_name(installation: str, order_id: str) -> str:
    """What this installation calls the order where others have orders too, such as in an account at a carrier. At most 80 characters,
    ASCII, never the same for two installations or two orders."""
    room = 79 - len(installation)
    name = stem(order_id)
    if len(name) > room:
        name = f"{name[: room - 25]}~{hashlib.sha256(order_id.encode()).hexdigest()[:24]}"
    return f"{installation}-{name}"


def key(order_id: str, step: str) -> str:
    """The idempotency key of a step of an order: made of nothing else, never of a clock or a random number.
    At most 255 characters, ASCII, as gateways ask."""
    return f"{step}-{stem(order_id)}"


def run_name(what: str, order: object) -> str:
    """A Prefect run's name with the order's id in it, whatever was given as an order: one line, at most 120 characters."""
    given = order.get("id") if isinstance(order, Mapping) else getattr(order, "id", None)
    shown = _CONTROL.sub(" ", str(given)) if isinstance(given, str | int) else "without an id"
    return f"{what} {shown[:100]}"
