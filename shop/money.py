"""Money is a Decimal and a currency. Minor units per currency are ISO 4217's."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

# ISO 4217 active currencies by number of decimals; the rest of the list has two.
_ZERO = frozenset("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split())
_THREE = frozenset("BHD IQD JOD KWD LYD OMR TND".split())
_TWO = frozenset(
    (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP "
        "CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES "
        "KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK "
        "NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB "
        "TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG"
    ).split()
)


def is_currency(code: str) -> bool:
    """Whether `code` is an active ISO 4217 currency that an order can be paid in."""
    return code in _TWO or code in _ZERO or code in _THREE


def decimals(currency: str) -> int:
    """How many decimals the currency's smallest unit has: USD 2, JPY 0, KWD 3."""
    return 0 if currency in _ZERO else 3 if currency in _THREE else 2


@lru_cache(maxsize=256)
def _unit(currency: str) -> Decimal:
    return Decimal(1).scaleb(-decimals(currency))


def fits(amount: Decimal, currency: str) -> bool:
    """Whether the amount is a whole number of the currency's smallest units."""
    return amount.same_quantum(_unit(currency)) or amount == round_to(amount, currency)


def round_to(amount: Decimal, currency: str) -> Decimal:
    """The amount with exactly the currency's decimals, half up."""
    return amount.quantize(_unit(currency), rounding=ROUND_HALF_UP)


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
