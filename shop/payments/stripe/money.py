"""Stripe's currency units: mostly ISO 4217's smallest units, with exceptions
(https://docs.stripe.com/currencies).

An amount that cannot be charged exactly is refused, never rounded: an order's total and its charge are equal.
"""

from __future__ import annotations

from decimal import Decimal

from shop.payments.errors import PaymentGatewayError
from shop.values.money import decimals, fits, is_currency

_AS_TWO_DECIMALS = frozenset({"ISK", "UGX"})
"""Currencies without decimals that Stripe counts in hundredths. Only whole hundreds can be charged."""
_NO_DECIMALS = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
"""Currencies with three decimals, the last of which must be 0."""


def _exponent(currency: str) -> int:
    """Returns the number of decimals of Stripe's unit. Raises what `to_units` raises."""
    if currency in _NO_DECIMALS:
        return 0
    if currency in _THREE_DECIMALS:
        return 3
    if currency in _AS_TWO_DECIMALS or (is_currency(currency) and decimals(currency) == 2):
        return 2
    raise _refused(f"Stripe does not accept payments in {currency}")


def _step(currency: str) -> Decimal:
    """Returns the smallest amount by which two charges can differ."""
    if currency in _THREE_DECIMALS:
        return Decimal("0.01")
    return Decimal(1) if currency in _AS_TWO_DECIMALS else Decimal(1).scaleb(-_exponent(currency))


def to_units(amount: Decimal, currency: str) -> int:
    """Converts an amount to Stripe's units: 10.59 USD is 1059, 500 JPY is 500, 5 ISK is 500, 5.12 KWD is
    5120. Raises `PaymentGatewayError`, not retryable, for an amount that Stripe cannot charge, such as 5.124
    KWD."""
    exponent, step = _exponent(currency), _step(currency)
    if not amount.is_finite() or not fits(amount, currency) or amount % step:
        raise _refused(f"Stripe cannot charge {amount} {currency}: it accepts {currency} in steps of {step}")
    return int(amount.scaleb(exponent))


def from_units(units: int, currency: str) -> Decimal:
    """Converts Stripe's units to an amount with the currency's own decimals."""
    amount = Decimal(units).scaleb(-_exponent(currency))
    return amount.quantize(Decimal(1).scaleb(-decimals(currency))) if fits(amount, currency) else amount


def _refused(message: str) -> PaymentGatewayError:
    return PaymentGatewayError("invalid_amount", message, retryable=False)
