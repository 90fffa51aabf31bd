"""Money: a Decimal and a currency. Currencies and their minor units are those of ISO 4217, from the package
`iso4217`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

NO_CURRENCY = "XXX"

_UNITS_OF_ACCOUNT = frozenset("BOV CHE CHW CLF COU MXV USN UYI UYW XAD".split())
"""Codes of ISO 4217 that are not money: fund codes and units of account. Precious metals and test codes need
no entry, as they have no minor units."""

# The approximate number of units that are worth one US dollar: the next higher power of ten. For limits,
# which need no exchange rates. A unit of any other currency is worth about a dollar or more.
_MAGNITUDES = {
    10: (
        "AED BMD BOB BRL CNY DKK FJD GEL GTQ HKD ILS MAD MYR NOK "
        "PEN PGK PLN QAR RON SAR SEK TMT TJS TOP TTD WST"
    ),
    100: (
        "AFN ALL BTN BWP CUP CVE CZK DOP EGP ERN GHS GMD HNL INR KGS LSL MDL MKD MOP MRU MUR MVR MXN MZN NAD "
        "NIO PHP RUB SBD SCR SLE SRD STN SVC SZL THB TRY TWD UAH UYU ZAR ZMW"
    ),
    1_000: (
        "AMD AOA BDT CLP CRC DJF DZD ETB GYD HTG HUF ISK JMD JPY KES KMF KPW KZT LKR LRD NPR PKR RSD "
        "SDG SOS VUV XAF XOF XPF YER ZWG"
    ),
    10_000: "ARS BIF CDF COP GNF IQD KHR KRW MGA MMK MNT MWK NGN PYG RWF SSP TZS UGX VED VES",
    100_000: "IDR LAK LBP SYP UZS VND",
    1_000_000: "IRR",
}
_UNITS_PER_DOLLAR = {
    currency: units for units, currencies in _MAGNITUDES.items() for currency in currencies.split()
}


@lru_cache(maxsize=1)
def currencies() -> Mapping[str, int]:
    """Returns the active ISO 4217 currencies in which an order can be paid, with their decimals."""
    from iso4217 import Currency  # reads its list on import

    return {
        each.code: each.exponent
        for each in Currency
        if each.exponent is not None and each.code not in _UNITS_OF_ACCOUNT
    }


def is_currency(code: str) -> bool:
    """Returns whether `code` is an active ISO 4217 currency in which an order can be paid."""
    return code in currencies()


def currency_of(content: Mapping[str, Any]) -> str:
    """Returns the currency in an order's content, even if orders cannot be paid in it; ISO 4217's `XXX` if it
    is not a code."""
    code = content.get("currency", "USD")
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z]{3}", code) else NO_CURRENCY


def decimals(currency: str) -> int:
    """Returns the number of decimals of the currency: USD 2, JPY 0, KWD 3. 2 for unknown and former
    currencies."""
    return currencies().get(currency, 2)


def units_per_dollar(currency: str) -> int:
    """Returns the approximate number of units that are worth one US dollar, rounded up to a power of ten: EUR
    1, JPY 1,000, VND 100,000."""
    return _UNITS_PER_DOLLAR.get(currency, 1)


@lru_cache(maxsize=256)
def _unit(currency: str) -> Decimal:
    return Decimal(1).scaleb(-decimals(currency))


def fits(amount: Decimal, currency: str) -> bool:
    """Returns whether the amount is a whole number of the currency's smallest units."""
    return amount.same_quantum(_unit(currency)) or amount == round_to(amount, currency)


def round_to(amount: Decimal, currency: str) -> Decimal:
    """Rounds the amount half up to the currency's decimals."""
    return amount.quantize(_unit(currency), rounding=ROUND_HALF_UP)


def exact(amount: Decimal, currency: str) -> Decimal:
    """The amount with the currency's decimals, as people and programs write it, unless it has more."""
    return round_to(amount, currency) if fits(amount, currency) else amount


def to_minor(amount: Decimal, currency: str) -> int:
    """Converts the amount to smallest units, as gateways use them: USD 10.59 is 1059, JPY 500 is 500. Raises
    ValueError if it is not a whole number of them."""
    if not fits(amount, currency):
        raise ValueError(f"{amount} {currency} is not a whole number of its smallest units")
    return int(amount.scaleb(decimals(currency)))


def from_minor(units: int, currency: str) -> Decimal:
    """Converts smallest units to an amount: 1059 units of USD are 10.59."""
    return Decimal(units).scaleb(-decimals(currency))


def show(amount: Decimal, currency: str) -> str:
    """Formats the amount for people: `1,059.97 USD`."""
    return f"{round_to(amount, currency):,} {currency}"
