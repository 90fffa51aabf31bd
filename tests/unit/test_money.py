"""Money: amounts and their smallest units, currency by currency."""

from __future__ import annotations

from decimal import Decimal
from importlib.resources import files
from xml.etree import ElementTree

import pytest
from babel import Locale
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.values import money

relaxed = hypothesis_settings(deadline=None)
CODES = ["USD", "EUR", "JPY", "KRW", "KWD", "BHD", "CLP", "TND", "GBP", "INR"]
currencies = st.sampled_from(CODES)
units = st.integers(min_value=-(10**18), max_value=10**18)


@pytest.mark.parametrize(
    ("currency", "amount", "minor"),
    [
        ("USD", "10.59", 1059),
        ("USD", "0.01", 1),
        ("USD", "1000000", 100_000_000),
        ("EUR", "-3.5", -350),
        ("JPY", "500", 500),
        ("JPY", "500.00", 500),
        ("KWD", "1.234", 1234),
        ("KWD", "1", 1000),
    ],
)
def test_smallest_units(currency: str, amount: str, minor: int) -> None:
    assert money.to_minor(Decimal(amount), currency) == minor
    assert money.from_minor(minor, currency) == Decimal(amount)


@pytest.mark.parametrize(
    ("currency", "amount"), [("USD", "10.595"), ("USD", "0.001"), ("JPY", "500.5"), ("KWD", "1.2345")]
)
def test_what_is_no_whole_number_of_smallest_units_is_refused(currency: str, amount: str) -> None:
    assert not money.fits(Decimal(amount), currency)
    with pytest.raises(ValueError, match="whole number"):
        money.to_minor(Decimal(amount), currency)


@pytest.mark.parametrize(
    ("currency", "decimals"), [("USD", 2), ("EUR", 2), ("JPY", 0), ("KRW", 0), ("KWD", 3), ("TND", 3)]
)
def test_decimals(currency: str, decimals: int) -> None:
    assert money.decimals(currency) == decimals


@pytest.mark.parametrize("code", ["", "usd", "US", "USDD", "XXX", "XAU", "DEM", "BTC", "EUR ", "ＵＳＤ"])
def test_what_is_no_currency(code: str) -> None:
    assert not money.is_currency(code)


@pytest.mark.parametrize(
    "code", ["XAU", "XDR", "XTS", "XXX", "CLF", "UYW", "COU", "MXV", "CHE", "USN", "XAD"]
)
def test_a_unit_of_account_is_no_currency(code: str) -> None:
    assert not money.is_currency(code)


def test_every_active_currency_of_iso_4217_has_its_own_decimals() -> None:
    """Read from ISO's own table, without the package that reads it for the product."""
    entries = ElementTree.fromstring(files("iso4217").joinpath("table.xml").read_bytes()).findall(
        "CcyTbl/CcyNtry"
    )
    listed = {
        entry.findtext("Ccy", ""): int(entry.findtext("CcyMnrUnts", ""))
        for entry in entries
        if entry.findtext("CcyMnrUnts", "").isdigit() and entry.find("CcyNm[@IsFund]") is None
    }
    no_money = {"XAD", "UYW"}  # units of account that the table does not mark as funds
    assert money.currencies() == {code: decimals for code, decimals in listed.items() if code not in no_money}
    assert len(money.currencies()) > 150
    assert {code for code, decimals in money.currencies().items() if decimals == 3} == {
        *"BHD IQD JOD KWD LYD OMR TND".split()
    }
    assert set(money.currencies().values()) == {0, 2, 3}
    assert money.is_currency("XCG"), "since 2025"


def test_babel_knows_every_currency() -> None:
    """It writes amounts in mails."""
    assert set(money.currencies()) <= set(Locale("en").currencies)


def test_the_table_of_magnitudes_names_each_currency_once_and_only_active_ones() -> None:
    named = " ".join(money._MAGNITUDES.values()).split()
    assert sorted(set(named)) == sorted(named)
    assert set(named) <= set(money.currencies()), "a currency that ISO 4217 withdrew"


@pytest.mark.parametrize(
    ("currency", "units"),
    [("USD", 1), ("EUR", 1), ("KWD", 1), ("INR", 100), ("JPY", 1_000), ("VND", 100_000)],
)
def test_what_a_dollar_is_about_worth(currency: str, units: int) -> None:
    assert money.units_per_dollar(currency) == units


def test_codes_are_currencies() -> None:
    assert all(money.is_currency(code) for code in CODES)


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.005", "USD", "0.01"),
        ("0.0049", "USD", "0.00"),
        ("-0.005", "USD", "-0.01"),
        ("0.5", "JPY", "1"),
        ("1.0005", "KWD", "1.001"),
    ],
)
def test_half_is_rounded_away_from_zero(amount: str, currency: str, rounded: str) -> None:
    assert str(money.round_to(Decimal(amount), currency)) == rounded


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("1059.97", "USD", "1,059.97 USD"),
        ("1059.9", "USD", "1,059.90 USD"),
        ("1234567", "JPY", "1,234,567 JPY"),
        ("1", "KWD", "1.000 KWD"),
    ],
)
def test_shown_to_people(amount: str, currency: str, shown: str) -> None:
    assert money.show(Decimal(amount), currency) == shown


@relaxed
@given(units, currencies)
def test_units_and_amounts_are_the_same_money(minor: int, currency: str) -> None:
    amount = money.from_minor(minor, currency)
    assert money.fits(amount, currency)
    assert money.to_minor(amount, currency) == minor


@relaxed
@given(st.decimals(min_value=-(10**12), max_value=10**12, places=6), currencies)
def test_rounding_moves_less_than_a_smallest_unit(amount: Decimal, currency: str) -> None:
    rounded = money.round_to(amount, currency)
    assert money.fits(rounded, currency)
    assert abs(rounded - amount) * 2 <= money.from_minor(1, currency)
    assert money.fits(amount, currency) == (rounded == amount)
