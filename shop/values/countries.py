"""Countries by their two-letter codes of ISO 3166-1, from the package `pycountry`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

_ALSO_USED = {"UK": "GB", "EL": "GR"}
"""Codes that people and the European Union use, mapped to those of ISO 3166-1."""


@lru_cache(maxsize=1)
def _names() -> Mapping[str, str]:
    """Returns a mapping from the names and codes of countries, in lower case, to the two-letter codes."""
    import pycountry

    names = {name.lower(): code for name, code in _ALSO_USED.items()}
    for country in pycountry.countries:
        for kind in ("name", "common_name", "official_name", "alpha_3", "alpha_2"):
            if name := getattr(country, kind, None):
                names[name.lower()] = country.alpha_2
    return names


@lru_cache(maxsize=1)
def codes() -> frozenset[str]:
    """Returns all two-letter codes, in capitals."""
    return frozenset(_names().values())


def is_country(code: str) -> bool:
    """Returns whether `code` is a two-letter code of ISO 3166-1, in any case."""
    # Checks the length first: some letters become two in upper case.
    return len(code) == 2 and code.isascii() and code.upper() in codes()


def meant(given: str) -> str | None:
    """Returns the code for a name or code such as `UK`, `USA` or `Germany`; None if it is unknown."""
    return _names().get(given.strip().lower())
