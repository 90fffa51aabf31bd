"""Takes what a customer typed out of texts that others have written: a carrier repeats the address that it does not find."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "[customer's]"
_NOT_THE_CUSTOMERS = frozenset(
    "id product_id quantity price currency total_amount tax_amount shipping_amount discount_amount method country".split()
)
_SHORTEST_VALUE, _SHORTEST_WORD = 3, 4
_MOST = 2_000
"""Values and words of one order."""
_WORD = re.compile(r"\w+")


def without_customer(text: str, content: Mapping[str, Any]) -> str:
    """The text without what the order says of its customer: values, and their longer words, in upper or lower case. Of an order its id,
    products, amounts, currency, means of payment and country stay."""
    values = set(itertools.islice(_values(content), _MOST))
    words = {word for value in values for word in _WORD.findall(value) if len(word) >= _SHORTEST_WORD}
    known = sorted({*values, *words}, key=lambda each: (-len(each), each))[:_MOST]
    if not known:
        return text
    pattern = "|".join(r"\s+".join(map(re.escape, value.split())) for value in known)
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", HIDDEN, text, flags=re.IGNORECASE)


def _values(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, Mapping) and depth < 8:
        for key, each in value.items():
            if key not in _NOT_THE_CUSTOMERS:
                yield from _values(each, depth + 1)
    elif isinstance(value, list | tuple) and depth < 8:
        for each in value:
            yield from _values(each, depth + 1)
    elif isinstance(value, str | int) and not isinstance(value, bool) and len(text := str(value).strip()) >= _SHORTEST_VALUE:
        yield text
