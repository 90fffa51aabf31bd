"""Tracking numbers, and what the embedded carrier takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings
from shop.shipping.carrier import Carrier
from shop.shipping.embedded import SERIALS_PER_PAIR, EmbeddedCarrier, check_digit, tracking_number
from shop.shipping.errors import CarrierRefused

relaxed = hypothesis_settings(deadline=None)  # a busy machine is not a failure
SETTINGS = Settings(_env_file=None, DSPY_MODEL=None)
CARRIER = EmbeddedCarrier(SETTINGS)
_PROTOCOL: Carrier = CARRIER
LAST = 52 * SERIALS_PER_PAIR - 1


def order_to(country: str) -> Order:
    return Order.model_validate(
        {**EXAMPLE, "shipping_info": {"address": "1 Street", "city": "Town", "country": country}}
    )


class TestTrackingNumber:
    @pytest.mark.parametrize(
        "published",
        [
            "RR473124829GB",  # UPU S10, the standard's own example of the check digit
            "RB123456785GB",
            "EE123456785US",
            "CP000000005US",  # a remainder of 0 gives 5
        ],
    )
    def test_check_digit_of_published_numbers(self, published: str) -> None:
        assert check_digit(published[2:10]) == int(published[10])

    def test_the_two_special_remainders(self) -> None:
        assert check_digit("00000000") == 5  # remainder 0, 11 becomes 5
        assert check_digit("10100000") == 0  # remainder 1, 10 becomes 0

    def test_of_a_serial(self) -> None:
        assert tracking_number(47312482, "US") == "CA473124829US"

    def test_the_next_letters_follow(self) -> None:
        assert tracking_number(SERIALS_PER_PAIR - 1, "US").startswith("CA99999999")
        assert tracking_number(SERIALS_PER_PAIR, "US").startswith("CB00000000")
        assert tracking_number(26 * SERIALS_PER_PAIR, "US").startswith("HA00000000")
        assert tracking_number(LAST, "US").startswith("HZ99999999")

    @pytest.mark.parametrize("serial", [-1, LAST + 1])
    def test_there_are_no_others(self, serial: int) -> None:
        with pytest.raises(ValueError, match=r"not between 0 and 5199999999"):
            tracking_number(serial, "US")

    @relaxed
    @given(st.integers(0, LAST))
    def test_is_s10(self, serial: int) -> None:
        number = tracking_number(serial, "US")
        assert re.fullmatch(r"[CH][A-Z]\d{9}US", number)
        weighted = sum(
            int(digit) * weight for digit, weight in zip(number[2:10], (8, 6, 4, 2, 3, 5, 9, 7), strict=True)
        )
        assert int(number[10]) == {10: 0, 11: 5}.get(11 - weighted % 11, 11 - weighted % 11)

    @relaxed
    @given(st.sets(st.integers(0, LAST), min_size=2))
    def test_is_never_the_same_for_two(self, serials: set[int]) -> None:
        assert len({tracking_number(serial, "US") for serial in serials}) == len(serials)

    @relaxed
    @given(st.integers(0, 99_999_999), st.integers(0, 7), st.integers(1, 9))
    def test_a_mistyped_digit_is_noticed(self, serial: int, place: int, by: int) -> None:
        """As far as S10 can: it confuses two remainders (0 and 6, which both give 5)."""
        digits = f"{serial:08d}"
        typed = digits[:place] + str((int(digits[place]) + by) % 10) + digits[place + 1 :]
        if check_digit(typed) == check_digit(digits):
            assert check_digit(digits) == 5


class TestCheck:
    def test_takes_the_example(self) -> None:
        CARRIER.check(Order.model_validate(EXAMPLE))

    @pytest.mark.parametrize("country", ["AQ", "aq", " Aq "])
    def test_refuses_what_is_set(self, country: str) -> None:
        with pytest.raises(
            CarrierRefused, match=r"^the embedded carrier does not deliver to this country$"
        ) as refusal:
            CARRIER.check(order_to(country))
        assert refusal.value.retryable is False

    def test_refuses_other_countries_when_set(self) -> None:
        carrier = EmbeddedCarrier(SETTINGS.with_values(CARRIER_REFUSES=frozenset({"kp"})))
        carrier.check(order_to("AQ"))
        with pytest.raises(CarrierRefused, match="does not deliver"):
            carrier.check(order_to("KP"))

    def test_refuses_an_order_without_an_address(self) -> None:
        changes: dict[str, Any] = {**EXAMPLE, "shipping_info": None}
        with pytest.raises(CarrierRefused, match="without shipping_info"):
            CARRIER.check(Order.model_validate(changes))
