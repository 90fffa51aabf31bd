"""Money is a Decimal and a currency. Currencies and their minor units are those of ISO 4217, as the package
`iso4217` has its list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

NO_CURRENCY = "XXX"

_UNITS_OF_ACCOUNT = frozenset("BOV CHE CHW CLF COU MXV USN UYI UYW XAD".split())
"""On the list of ISO 4217, but no money: fund codes and units of account. Precious metals and test codes have
no minor units."""

# How many units of a currency are worth about one US dollar: the next higher power of ten. For limits, which need no rates;
# a currency that is not here is worth a dollar or more, or a good part of one.
_MAGNITUDES = {
    10: "AED BMD BOB BRL CNY DKK FJD GEL GTQ HKD ILS MAD MYR NOK PEN PGK PLN QAR RON SAR SEK TMT TJS TOP TTD WST",
    100: (
        "AFN ALL BTN BWP CUP CVE CZK DOP EGP ERN GHS GMD HNL INR KGS LSL MDL MKD MOP MRU MUR MVR MXN MZN NAD NIO PHP RUB "
        "SBD SCR SLE SRD STN SVC SZL THB TRY TWD UAH UYU ZAR ZMW"
    ),
    1_000: ("AMD AOA BDT CLP CRC DJF DZD ETB GYD HTG HUF ISK JMD JPY KES KMF KPW KZT LKR LRD NPR PKR RSD SDG SOS VUV XAF XOF XPF YER ZWG"),
    10_000: "ARS BIF CDF COP GNF IQD KHR KRW MGA MMK MNT MWK NGN PYG RWF SSP TZS UGX VED VES",
    100_000: "IDR LAK LBP SYP UZS VND",
    1_000_000: "IRR",
}
_UNITS_PER_DOLLAR = {currency: units for units, currencies in _MAGNITUDES.items() for currency in currencies.split()}


@lru_cache(maxsize=1)
def currencies() -> Mapping[str, int]:
    """The active currencies of ISO 4217 that an order can be paid in, with the decimals of their smallest
    units."""
    from iso4217 import Currency  # reads its list when it is imported

    return {each.code: each.exponent for each in Currency if each.exponent is not None and each.code not in _UNITS_OF_ACCOUNT}


def is_currency(code: str) -> bool:
    """Whether `code` is an active ISO 4217 currency that an order can be paid in."""
    return code in currencies()


def currency_of(content: Mapping[str, Any]) -> str:
    """The currency that an order's content names, also if it is none that orders are paid in; ISO 4217's `XXX` for what is no code."""
    code = content.get("currency", "USD")
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z]{3}", code) else NO_CURRENCY


def decimals(currency: str) -> int:
    """How many decimals the currency's smallest unit has: USD 2, JPY 0, KWD 3. 2 for what is no currency, or
    no more."""
    return currencies().get(currency, 2)


def units_per_dollar(currency: str) -> int:
    """A power of ten: about so many units, at most, are worth one US dollar. EUR 1, JPY 1,000, VND 100,000."""
    return _UNITS_PER_DOLLAR.get(currency, 1)


@lru_cache(maxsize=256)
def _unit(currency: str) -> Decimal:
    return Decimal(1).scaleb(-decimals(currency))


def fits(amount: Decimal, currency: str) -> bool:
    """Whether the amount is a whole number of the currency's smallest units."""
    return amount.same_quantum(_unit(currency)) or amount == round_to(amount, currency)


def round_to(amount: Decimal, currency: str) -> Decimal:
    """The amount with exactly the currency's decimals, half up."""
    return amount.quantize(_unit(currency), rounding=ROUND_HALF_UP)


def exact(amount: Decimal, currency: str) -> Decimal:
    """The amount with the currency's decimals, as people and programs write it, unless it has more."""
    return round_to(amount, currency) if fits(amount, currency) else amount


def to_minor(amount: Decimal, currency: str) -> int:
    """Smallest units, as gateways count: USD 10.59 is 1059, JPY 500 is 500. ValueError if it does not fit."""
    if not fits(amount, currency):
        raise ValueError(f"{amount} {currency} is not a whole number of its smallest units")
    return int(amount.scaleb(decimals(currency)))


def from_minor(units: int, currency: str) -> Decimal:
    """The amount that so many smallest units are: 1059 USD units are 10.59."""
    return Decimal(units).scaleb(-decimals(currency))


def show(amount: Decimal, currency: str) -> str:
    """For people: `1,059.97 USD`."""
    return f"{round_to(amount, currency):,} {currency}"
