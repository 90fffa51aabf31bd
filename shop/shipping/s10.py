"""Tracking numbers according to the Universal Postal Union's standard S10."""

from __future__ import annotations

SERIALS_PER_PAIR = 10**8
_WEIGHTS = (8, 6, 4, 2, 3, 5, 9, 7)
_PAIRS = [first + second for first in "CH" for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
"""Service indicators (C: parcels, H: parcels of online shops), in the sequence of use."""


def tracking_number(serial: int, origin: str) -> str:
    """Returns the tracking number: two letters, eight digits, a check digit, and the country of origin. After
    99,999,999 the next letters follow."""
    pair, number = divmod(serial, SERIALS_PER_PAIR)
    if not 0 <= pair < len(_PAIRS):
        raise ValueError(f"serial {serial} is not between 0 and {len(_PAIRS) * SERIALS_PER_PAIR - 1}")
    digits = f"{number:08d}"
    return f"{_PAIRS[pair]}{digits}{check_digit(digits)}{origin}"


def check_digit(serial: str) -> int:
    """Returns the check digit of eight digits."""
    rest = 11 - sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, serial, strict=True)) % 11
    return {10: 0, 11: 5}.get(rest, rest)
