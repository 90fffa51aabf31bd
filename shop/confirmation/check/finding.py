"""One thing that is wrong with a text: what it is, what was found, and why it may not leave."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a finding is about."""

    ORDER_NUMBER = "order number"
    AMOUNT = "amount"
    CURRENCY = "currency"
    ITEM = "item"
    QUANTITY = "quantity"
    NUMBER = "number"
    DELIVERY = "delivery time"
    DATE = "date"
    ADDRESS = "address"
    NAME = "name"
    PAYMENT_METHOD = "payment method"
    PROMISE = "promise"
    LINK = "link"
    E_MAIL = "e-mail address"
    PHONE = "phone number"
    NOTES = "notes"
    PLACEHOLDER = "placeholder"
    LANGUAGE = "language"
    LENGTH = "length"


_QUOTED = frozenset({Kind.AMOUNT, Kind.CURRENCY, Kind.QUANTITY, Kind.DELIVERY, Kind.DATE, Kind.PROMISE})
"""Of these, what was found is a number or a word of our own lists. Anything else may be a stranger's data."""

_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a text may not leave."""

    kind: Kind
    found: str
    """As it stands in the text, after unifying spellings; empty if something is missing."""
    why: str

    def __str__(self) -> str:
        """For logs and `validation_warnings`: quotes nothing but numbers and words of our own lists."""
        return self._said(self.found if self.kind in _QUOTED else "")

    @property
    def told(self) -> str:
        """For the model that wrote it: quotes what was found."""
        return self._said(self.found)

    def _said(self, found: str) -> str:
        short = found if len(found) <= _LONGEST else found[: _LONGEST - 3] + "..."
        return f"{self.kind}: {short} {self.why}" if short else f"{self.kind}: {self.why}"
