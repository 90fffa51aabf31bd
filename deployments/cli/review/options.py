"""Options shared by the commands of `order-saga review`. They are checked together, so that all problems
are reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

_FILTERS, _WHO = Group("Which orders", sort_key=1), Group("Who decides, and why", sort_key=2)


def _filter(text: str) -> Parameter:
    return Parameter(help=text, group=_FILTERS)


_STEP = _filter("The step whose compensation failed, such as process_payment.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Selects orders under manual review."""

    step: Annotated[str | None, _STEP] = None
    code: Annotated[str | None, _filter("The last error's code, such as refund_refused.")] = None
    currency: Annotated[str | None, _filter("The currency, such as USD.")] = None
    held: Annotated[
        bool | None, Parameter(help="Held by a person, or not.", group=_FILTERS, negative="--not-held")
    ] = None
    older_than: Annotated[str | None, _filter("Under manual review for longer than 30m, 24h, 7d.")] = None
    at_least: Annotated[str | None, _filter("The least amount at risk, in the order's currency.")] = None
    at_most: Annotated[str | None, _filter("The greatest amount at risk.")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Who:
    """Who decides, and why; for all orders or some."""

    all: Annotated[
        bool, Parameter(help="Every order that the filters match, instead of ids.", group=_FILTERS)
    ] = False
    by: Annotated[
        str,
        Parameter(help="Required: the name of the person who decides. Stored with the order.", group=_WHO),
    ] = ""
    reason: Annotated[
        str | None, Parameter(help="The reason. Stored with the order; no card data.", group=_WHO)
    ] = None
    dry_run: Annotated[bool, Parameter(help="Show what would be done, and change nothing.")] = False
