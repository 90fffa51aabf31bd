"""How Stripe counts money, and what it cannot charge."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.payments.errors import PaymentGatewayError
from shop.payments.stripe.records import from_units, to_units
from shop.values.money import currencies, decimals


@pytest.mark.parametrize(
    ("amount", "currency", "units"),
    [
        ("10.59", "USD", 1059),
        ("10", "EUR", 1000),
        ("500", "JPY", 500),
        ("500.00", "KRW", 500),
        ("5.12", "KWD", 5120),
        ("5.120", "BHD", 5120),
        ("5", "ISK", 500),
        ("5", "UGX", 500),
        ("7", "MGA", 7),
        ("10.45", "HUF", 1045),
        ("800.45", "TWD", 80045),
    ],
)
def test_amounts_are_counted_as_stripe_counts(amount: str, currency: str, units: int) -> None:
    assert to_units(Decimal(amount), currency) == units
    assert from_units(units, currency) == Decimal(amount)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("10.591", "USD"),
        ("500.5", "JPY"),
        ("5.124", "KWD"),
        ("5.5", "ISK"),
        ("5.01", "UGX"),
        ("7.5", "MGA"),
        ("NaN", "USD"),
        ("1.000", "IQD"),
        ("1", "XXX"),
        ("1", "usd"),
    ],
)
def test_what_cannot_be_charged_exactly_is_refused_and_not_rounded(amount: str, currency: str) -> None:
    with pytest.raises(PaymentGatewayError) as refused:
        to_units(Decimal(amount), currency)
    assert (refused.value.error_code, refused.value.retryable) == ("invalid_amount", False)
    assert currency in str(refused.value)


@pytest.mark.parametrize("currency", sorted(currencies()))
def test_every_currency_is_counted_exactly_or_refused(currency: str) -> None:
    """Stripe's own units differ from ISO 4217's for ISK and UGX (hundredths) and MGA (none)."""
    amount = Decimal(120)
    if currency in {"IQD", "LYD"}:  # three decimals, and not Stripe's
        with pytest.raises(PaymentGatewayError, match=currency):
            to_units(amount, currency)
        return
    units = to_units(amount, currency)
    stripes = {"ISK": 2, "UGX": 2, "MGA": 0}.get(currency, decimals(currency))
    assert units == 120 * 10**stripes
    assert from_units(units, currency) == amount


@given(st.sampled_from(["USD", "JPY", "KWD", "ISK", "UGX", "MGA", "EUR", "CLP"]), st.integers(0, 10**9))
def test_there_and_back_is_the_same(currency: str, hundredths: int) -> None:
    amount = Decimal(hundredths).scaleb(-2)
    try:
        units = to_units(amount, currency)
    except PaymentGatewayError:
        assert currency not in {"USD", "EUR", "KWD"}
        return
    back = from_units(units, currency)
    assert back == amount
    assert back.as_tuple().exponent == -decimals(currency)
