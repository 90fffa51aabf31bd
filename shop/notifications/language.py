"""Languages of mails: texts from a file, and the formats of numbers and dates."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

from shop.notifications.settings import LANGUAGES
from shop.orders.order import Order
from shop.runtime.times import day_of
from shop.settings import Settings
from shop.values.money import decimals, round_to

FALLBACK = "en"


class Language:
    """A language. Missing texts fall back to English one by one. Amounts have the currency's code, as `$` is
    ambiguous."""

    def __init__(self, code: str, words: Mapping[str, str]) -> None:
        self.code, self._words = code, words

    @property
    def english_name(self) -> str:
        """The language's English name, such as `German`."""
        return _english_name(self.code)

    def say(self, key: str, **values: object) -> str:
        """Returns the text of this key with the values filled in. Raises KeyError if there is none."""
        return self._words[key].format_map(values) if values else self._words[key]

    def number(self, amount: Decimal, currency: str) -> str:
        """Formats the amount with the currency's decimals, without the currency: `1,059.97`, `1.059,97`."""
        return _number(amount, decimals(currency), currency, self.code)

    def money(self, amount: Decimal, currency: str) -> str:
        """Formats the amount with its currency: `1,059.97 USD`, `1.059,97 USD`."""
        return f"{self.number(amount, currency)} {currency}"

    def day(self, when: datetime) -> str:
        """Formats the date: `February 3, 2031`, `3. Februar 2031`."""
        return _day(day_of(when), self.code)


@lru_cache
def language(code: str) -> Language:
    """Returns the language with this code. Raises FileNotFoundError if there is none."""
    return Language(code, {**words(FALLBACK), **words(code)})


def language_of(order: Order, settings: Settings) -> Language:
    """Returns the language for the order's customer: that of its locale, if there are texts for it; else that
    of the country."""
    if order.locale and (code := order.locale[:3].lower().rstrip("-_")) in _codes():
        return language(code)
    country = order.shipping_info.country.upper() if order.shipping_info else ""
    return language(settings.mail.language_by_country.get(country, settings.mail.language))


@lru_cache
def _codes() -> frozenset[str]:
    return frozenset(file.stem for file in LANGUAGES.glob("*.toml"))


@lru_cache
def words(code: str) -> Mapping[str, str]:
    """Returns the texts of the language's own file; `refund.title` is `title` in the section `[refund]`."""
    found: dict[str, str] = {}
    for name, value in tomllib.loads(Path(LANGUAGES, f"{code}.toml").read_text(encoding="utf-8")).items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": text for key, text in value.items()}
        else:
            found[name] = value
    return found


@lru_cache(maxsize=4096)
def _number(amount: Decimal, places: int, currency: str, code: str) -> str:
    from babel.numbers import format_decimal  # takes a tenth of a second to load

    pattern = "#,##0" + ("." + "0" * places if places else "")
    return format_decimal(round_to(amount, currency), format=pattern, locale=code, decimal_quantization=False)


@lru_cache(maxsize=64)
def _day(day: date, code: str) -> str:
    from babel.dates import format_date

    return format_date(day, "long", locale=code)


@lru_cache(maxsize=64)
def _english_name(code: str) -> str:
    from babel import Locale

    return str(Locale.parse(code).english_name)
