"""Pydantic's errors in words for people who know neither Pydantic nor Python."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_WORDS = {
    "missing": "missing",
    "extra_forbidden": "there is no such field",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "greater_than_equal": "at least {ge:,}",
    "greater_than": "more than {gt:,}",
    "less_than_equal": "at most {le:,}",
    "less_than": "less than {lt:,}",
    "string_too_long": "text of at most {max_length:,} characters",
    "too_short": "at least {min_length:,}",
    "too_long": "at most {max_length:,}",
}
"""What is expected, by the error's type."""
_KINDS = {
    "int_": "a whole number",
    "decimal_": "a number such as 9.99",
    "float_": "a number such as 9.99",
    "bool_": "true or false",
}
"""The same for whole families of types."""


def in_words(problem: Mapping[str, Any]) -> str:
    """Returns what the value should be, or what is wrong with it."""
    with suppress(KeyError):  # of a type without words, or a problem without its context
        return _WORDS[problem["type"]].format(**problem.get("ctx", {}))
    for beginning, words in _KINDS.items():
        if problem["type"].startswith(beginning):
            return words
    return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
