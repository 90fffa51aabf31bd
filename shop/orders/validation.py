"""Validates orders: finds all problems at once, each with its place.

Handles data of any shape: checks what can be read and reports what cannot. Problems go to task runs, events
and logs, so they name field and rule and never repeat what a customer typed. They show amounts, piece counts,
currencies and product ids, and of other values only the kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from saga.yielding import yielding
from shop.orders import rules
from shop.orders.errors import OrderRejected, Problem, kind, shown
from shop.orders.intake_content import HAS_REMOVED, MISNAMED, NUMBERS, REFUSED, REMOVED
from shop.orders.order import Order
from shop.orders.parts import Item
from shop.orders.rules import MAX_TEXT, Readable, Whole
from shop.settings import Settings
from shop.values.messages import in_words

_MISNAMED = "a field of another name"
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*")
_KEY = re.compile(r"[A-Za-z_~][A-Za-z0-9_-]{0,59}(\[[0-9]+\])*")
_FIELDS = {
    name: TypeAdapter(field.rebuild_annotation())
    for name, field in Order.model_fields.items()
    if name != "items"
}
_ITEM = TypeAdapter(Item)
_OF_THE_TOTAL = frozenset(
    "tax_amount shipping_amount discount_amount tip_amount shipping_lines fees prices_include_tax".split()
)


class Catalogue(Protocol):
    async def known(self, product_ids: set[str]) -> set[str]:
        """Returns those of the ids that are products."""
        ...


async def validate(
    contents: Sequence[Mapping[str, Any]], catalogue: Catalogue, limits: Settings
) -> list[Order | OrderRejected]:
    """Returns for each order, in the same sequence, the order or its problems."""
    read = [_read(content) async for content in yielding(contents)]
    asked = {
        item.product_id
        for fields, _, _ in read
        for item in fields.get("items", {}).values()
        if 0 < len(item.product_id) <= MAX_TEXT
    }
    known = await catalogue.known(asked)
    verdicts: list[Order | OrderRejected] = []
    async for fields, unreadable, order in yielding(read):
        found = [*unreadable, *rules.problems(fields, known, limits, REMOVED)]
        verdicts.append(order if order is not None and not found else OrderRejected(found))
    return verdicts


def _read(content: Mapping[str, Any]) -> tuple[Readable, list[Problem], Order | None]:
    """Reads what can be read and reports the rest."""
    problems = [*_refused(content), *_removed(content, "")] if HAS_REMOVED in content else []
    named = {problem.expected for problem in problems if problem.given == _MISNAMED}
    try:
        order = Order.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        found = [
            (e, _problem(e))
            for e in errors
            if not (isinstance(e["input"], str) and e["input"].startswith(REMOVED))
        ]
        problems += [problem for e, problem in found if e["type"] != "missing" or problem.place not in named]
    else:
        return Whole({**vars(order), "items": dict(enumerate(order.items))}, order), problems, order
    fields: dict[str, Any] = {}
    for name, adapter in _FIELDS.items():
        try:
            fields[name] = (
                adapter.validate_python(_stripped(content[name])) if name in content else _default(name)
            )
        except ValidationError:  # reported above
            if name in _OF_THE_TOTAL:
                fields["incomplete"] = True
        except KeyError:  # reported above
            continue
    items = content.get("items")
    if isinstance(items, list):
        fields["items"] = {}
        for i, item in enumerate(items):
            try:
                fields["items"][i] = _ITEM.validate_python(item)
            except ValidationError:
                fields["incomplete"] = True  # reported above; no total can be calculated
    return fields, problems, None


def _stripped(value: Any) -> Any:
    """Strips a value as `Order` does."""
    return value.strip() if isinstance(value, str) else value


def _default(name: str) -> Any:
    field = Order.model_fields[name]
    if field.is_required():
        raise KeyError(name)
    return field.get_default(call_default_factory=True)


def _refused(content: Mapping[str, Any]) -> Iterator[Problem]:
    """Reports what another system's order had that cannot be represented; see `shop.orders.formats`."""
    marks = content[HAS_REMOVED]
    for place, mark in marks.items() if isinstance(marks, Mapping) else ():
        if isinstance(mark, str) and mark.startswith(REFUSED):
            given, _, expected = mark.removeprefix(REFUSED).removesuffix("]").partition("; ")
            yield Problem(_path(place), given, expected)


def _removed(value: Any, place: str) -> list[Problem]:
    """Reports what intake removed; see `shop.orders.intake_content`."""
    if isinstance(value, str) and value.startswith(MISNAMED) and place:
        return [Problem(_path(place), _MISNAMED, _sibling(place, value.removeprefix(MISNAMED).rstrip("]")))]
    if isinstance(value, str) and value.startswith(REMOVED):
        return [
            Problem(
                _path(place) or "order",
                "(removed)",
                f"nothing of the kind: it {value.removeprefix(REMOVED).rstrip(']')}",
            )
        ]
    if isinstance(value, Mapping):
        return [
            p for k, v in value.items() for p in (*_removed(k, place), *_removed(v, _below(place, str(k))))
        ]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in _removed(v, f"{place}[{i}]")]
    return []


def _path(place: str) -> str:
    """Returns the field's path. Hides parts that do not look like a field's name: they may be any text."""
    return (
        ".".join(part if _KEY.fullmatch(part) else "(a field)" for part in place.split(".")) if place else ""
    )


def _below(place: str, key: str) -> str:
    """Returns the place of a field in content; places of fields that are not kept stand as they are."""
    return "" if key == HAS_REMOVED else f"{place}.{key}" if place else key


def _sibling(place: str, name: str) -> str:
    return f"{parent}.{name}" if (parent := place.rpartition(".")[0]) else name


def _problem(error: ErrorDetails) -> Problem:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "missing":
        return Problem(place, "nothing", "a value")
    given = error["input"]
    is_number = error["loc"][-1] in NUMBERS and (
        _NUMBER.fullmatch(given) if isinstance(given, str) else isinstance(given, int | float | Decimal)
    )
    return Problem(place, shown(given) if is_number else kind(given), in_words(error))
