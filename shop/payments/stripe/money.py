"""How Stripe counts money: mostly in ISO 4217's smallest units, with exceptions (https://docs.stripe.com/currencies).

What cannot be charged to the last unit is refused, never rounded: an order's total and its charge are the same amount.
"""

from __future__ import annotations

from decimal import Decimal

from shop.payments.errors import PaymentGatewayError
from shop.values.money import decimals, fits, is_currency

_AS_TWO_DECIMALS = frozenset({"ISK", "UGX"})
"""Have no decimals any more; Stripe goes on counting in hundredths, of which only whole hundreds can be charged."""
_NO_DECIMALS = frozenset({"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"})
_THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
"""The last digit has to be 0."""


def _exponent(currency: str) -> int:
    """How many decimals Stripe's unit has. Raises what `to_units` raises."""
    if currency in _NO_DECIMALS:
        return 0
    if currency in _THREE_DECIMALS:
        return 3
    if currency in _AS_TWO_DECIMALS or (is_currency(currency) and decimals(currency) == 2):
        return 2
    raise _refused(f"Stripe takes no payments in {currency}")


def _step(currency: str) -> Decimal:
    """The smallest amount by which two charges can differ."""
    if currency in _THREE_DECIMALS:
        return Decimal("0.01")
    return Decimal(1) if currency in _AS_TWO_DECIMALS else Decimal(1).scaleb(-_exponent(currency))


def to_units(amount: Decimal, currency: str) -> int:
    """The amount as Stripe counts it: 10.59 USD is 1059, 500 JPY is 500, 5 ISK is 500, 5.12 KWD is 5120. Raises `PaymentGatewayError`,
    not retryable, for what Stripe cannot charge, such as 5.124 KWD."""
    exponent, step = _exponent(currency), _step(currency)
    if not amount.is_finite() or not fits(amount, currency) or amount % step:
        raise _refused(f"{amount} {currency} cannot be charged by Stripe, which takes {currency} in steps of {step}")
    return int(amount.scaleb(exponent))


def from_units(units: int, currency: str) -> Decimal:
    """The amount that so many of Stripe's units are, with the currency's own decimals."""
    amount = Decimal(units).scaleb(-_exponent(currency))
    return amount.quantize(Decimal(1).scaleb(-decimals(currency))) if fits(amount, currency) else amount


def _refused(message: str) -> PaymentGatewayError:
    return PaymentGatewayError("invalid_amount", message, retryable=False)
