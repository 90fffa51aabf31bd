"""Countries by their two-letter codes of ISO 3166-1, as the package `pycountry` has its list."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

_ALSO_USED = {"UK": "GB", "EL": "GR"}
"""Codes that people and the European Union use, with those of ISO 3166-1."""


@lru_cache(maxsize=1)
def _names() -> Mapping[str, str]:
    """Every code of two letters, and by what else a country is known (three letters, its names) in lower
    case, to its code."""
    import pycountry

    names = {name.lower(): code for name, code in _ALSO_USED.items()}
    for country in pycountry.countries:
        for kind in ("name", "common_name", "official_name", "alpha_3", "alpha_2"):
            if name := getattr(country, kind, None):
                names[name.lower()] = country.alpha_2
    return names


@lru_cache(maxsize=1)
def codes() -> frozenset[str]:
    """Every code, in capitals."""
    return frozenset(_names().values())


def is_country(code: str) -> bool:
    """Whether `code`, in capitals or not, is a country's of ISO 3166-1."""
    return len(code) == 2 and code.isascii() and code.upper() in codes()  # some letters are two in capitals


def meant(given: str) -> str | None:
    """The code that somebody means who writes `UK`, `USA` or `Germany`; None if that is not clear."""
    return _names().get(given.strip().lower())
