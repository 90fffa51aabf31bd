"""Finds payment card numbers in text by the issuer's prefix, its lengths, and the check digit (ISO/IEC 7812).

The Luhn check alone matches one in ten ids of 13 to 19 digits. Therefore prefix and length must match, too,
and fields with ids or numbers are not searched.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from shop.text.sanitize import UNSEEN

MASK = "[card number]"
"""Replaces a card number in a text."""

_16_TO_19, _16_OR_19 = (16, 17, 18, 19), (16, 19)
# The lengths in use. No network still issues cards of 13 digits. Diners Club's 14 digits are also the length
# of a date and time, and therefore count only where a card number is expected (`_DINERS_CLUB`).
_ISSUERS: tuple[tuple[str, int, int, tuple[int, ...]], ...] = (
    ("Visa", 4, 4, _16_OR_19),
    ("Mastercard", 51, 55, (16,)),
    ("Mastercard", 2221, 2720, (16,)),
    ("American Express", 34, 34, (15,)),
    ("American Express", 37, 37, (15,)),
    ("Discover", 6011, 6011, _16_TO_19),
    ("Discover", 644, 649, _16_TO_19),
    ("Discover", 65, 65, _16_TO_19),
    ("Diners Club", 300, 305, _16_OR_19),
    ("Diners Club", 36, 36, _16_OR_19),
    ("Diners Club", 38, 39, _16_OR_19),
    ("JCB", 3528, 3589, _16_OR_19),
    ("JCB", 2131, 2131, (15,)),
    ("JCB", 1800, 1800, (15,)),
    ("Dankort", 5019, 5019, (16,)),
    ("UnionPay", 62, 62, _16_TO_19),
    ("Maestro", 5018, 5018, _16_TO_19),
    ("Maestro", 5020, 5020, _16_TO_19),
    ("Maestro", 5038, 5038, _16_TO_19),
    ("Maestro", 5893, 5893, _16_TO_19),
    ("Maestro", 56, 58, _16_TO_19),
    ("Maestro", 6304, 6304, _16_TO_19),
    ("Maestro", 67, 67, _16_TO_19),
    ("Mir", 2200, 2204, _16_TO_19),
    ("RuPay", 508, 508, (16,)),
    ("RuPay", 60, 60, (16,)),
    ("RuPay", 81, 82, (16,)),
    ("InterPayment", 636, 636, _16_OR_19),
    ("Elo, Verve", 5060, 5069, _16_OR_19),
)
"""Issuer, first and last prefix, and lengths."""
_LENGTHS = {str(prefix): lengths for _, first, last, lengths in _ISSUERS for prefix in range(first, last + 1)}

_SHORTEST, _LONGEST = 15, 19
SHORTEST = 12
"""The least number of digits of any issuer's card number."""
# Digits in groups: between two of them at most three characters, and any number of invisible ones, which may
# be removed before the text is written.
_GAP = rf"[{UNSEEN}]*+(?:(?:_|[^\w{UNSEEN}])[{UNSEEN}]*+){{0,3}}+"
UUID = (
    r"(?<![0-9A-Za-z])(?=[0-9-]{0,35}[A-Fa-f])"
    r"(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})(?![0-9A-Za-z])"
)
"""A UUID (RFC 9562) with at least one letter: its digits are not a card number."""
_UUID = re.compile(UUID)
# The pattern is unambiguous, so that the time is linear in the text's length.
_RUN = re.compile(rf"(?<!\d)\d(?:{_GAP}\d){{{_SHORTEST - 1},}}+")
_DIGIT_SIGNS = {
    code: str(unicodedata.digit(chr(code)))
    for block in (range(0xB2, 0xBA), range(0x2070, 0x2794), range(0x1F100, 0x1F10B))
    for code in block
    if chr(code).isdigit() and not chr(code).isdecimal()
}
"""Superscript, subscript and circled digits, mapped to plain ones."""
_DIGITS = re.compile(r"\d+")
_DINERS_CLUB = re.compile(r"(?=\d{14}$)(36|38|39|30[0-5])\d+")
_WORD = re.compile(r"[^\W\d]")
_DATE = re.compile(
    rf"{re.escape(MASK)}\W{{0,3}}(?:exp\W{{0,3}})?\d{{1,2}}\s?[/-]\s?\d{{2,4}}(?!\d)(?:\W{{1,3}}\d{{3,4}}(?!\d))?",
    re.IGNORECASE,
)
_CODE = re.compile(r"\b((?:cvv2?|cvc2?|csc|security code)\W{0,3})\d{3,4}(?!\d)", re.IGNORECASE)
_ASCII = bytes(range(128))
_NO_WORD = bytes(code for code in range(256) if not chr(code).isalnum() or code > 127)
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_ZEROS = b"0" * _SHORTEST
_VALUE = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))


def has_card_number(text: str) -> bool:
    """Returns whether the text contains a card number, alone or among other words and numbers."""
    return next(_found(text), None) is not None


def masked(text: str) -> str:
    """Replaces each card number by `MASK`, with the expiry date and the security code that follow it."""
    parts, end = [], 0
    for start, stop in _found(text):
        parts += [text[end:start], MASK]
        end = stop
    return _CODE.sub(r"\1[code]", _DATE.sub(MASK, "".join([*parts, text[end:]]))) if parts else text


def cut(text: str, most: int) -> str:
    """Cuts the text to `most` characters. Masks card numbers before: a part of one would not be found."""
    if len(text) <= most:
        return text
    end = min(len(text), 3 * most)
    if end < len(text):  # a number may continue after the cut
        while end and not text[end - 1].isalpha():
            end -= 1
    return masked(text[:end])[:most]


def is_card_number(text: str) -> bool:
    """Returns whether the text of a card number field is or contains a card number: of any issuer, also with
    12 to 14 digits."""
    if len(text) < SHORTEST:
        return False
    digits = _ascii("".join(_DIGITS.findall(_plain_digits(text))))
    return has_card_number(text) or (SHORTEST <= len(digits) <= _LONGEST and passes_luhn(digits))


def is_card_number_as_token(text: str) -> bool:
    """Returns whether a gateway's token contains a card number. Tokens may consist of digits, so that an
    issuer's prefix is required."""
    if len(text) < SHORTEST:
        return False
    digits = _ascii("".join(_DIGITS.findall(_plain_digits(text))))
    return has_card_number(text) or (
        _DINERS_CLUB.fullmatch(digits) is not None and passes_luhn(digits) and not _WORD.search(text)
    )


def passes_luhn(digits: str) -> bool:
    """Returns whether the last digit is the check digit of the others."""
    return _sums(digits)[len(digits) % 2][-1] % 10 == 0


def _found(text: str) -> Iterator[tuple[int, int]]:
    """Yields start and end of each card number, from left to right. Both are at the borders of groups of
    digits."""
    if not _may_have_run(text):  # the usual case
        return
    text = _plain_digits(text)
    for run in _RUN.finditer(_UUID.sub(lambda uuid: "x" * len(uuid.group()), text)):
        yield from _found_in(run)


def _may_have_run(text: str) -> bool:
    """Returns False if the text certainly has no match of `_RUN`. Takes a tenth of the pattern's time: it
    looks for as many digits in a row, after it has removed everything but ASCII letters and digits."""
    written = text.encode("utf-8", "surrogatepass")
    if _ZEROS in written.translate(_DIGITS_AS_ZEROS, _NO_WORD):
        return True
    if text.isascii():
        return False
    return any(map(str.isdigit, written.translate(None, _ASCII).decode("utf-8", "surrogatepass")))


def _found_in(run: re.Match[str]) -> Iterator[tuple[int, int]]:
    groups = [group.span() for group in _DIGITS.finditer(run.string, *run.span())]
    digits = _ascii("".join(run.string[start:stop] for start, stop in groups))
    sums = _sums(digits)
    # The index of each group's first digit among all digits.
    first = list(accumulate((stop - start for start, stop in groups), initial=0))
    ends = {first[i + 1]: stop for i, (_, stop) in enumerate(groups)}
    found = 0
    for (start, _), begin in zip(groups, first, strict=False):
        if begin < found:
            continue
        for length in _lengths(digits[begin : begin + 4]):
            end = begin + length
            if end in ends and (sums[end % 2][end] - sums[end % 2][begin]) % 10 == 0:
                yield start, ends[end]
                found = end
                break


def _plain_digits(text: str) -> str:
    """Replaces special forms of digits, one character by one."""
    return text if text.isascii() else text.translate(_DIGIT_SIGNS)


def _ascii(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)


def _sums(digits: str) -> tuple[list[int], list[int]]:
    """Returns the Luhn sums of each prefix: for a number that ends at an even position, and for one that ends
    at an odd position."""
    even, odd = (bytearray(digits.encode().translate(_VALUE)) for _ in range(2))
    doubled = digits.encode().translate(_DOUBLED)
    even[::2], odd[1::2] = doubled[::2], doubled[1::2]
    return list(accumulate(even, initial=0)), list(accumulate(odd, initial=0))


@lru_cache(maxsize=10_000)
def _lengths(beginning: str) -> tuple[int, ...]:
    """Returns the lengths of card numbers with these first four digits, longest first. Issuers may share
    prefixes."""
    issuers = [_LENGTHS.get(beginning[:digits], ()) for digits in range(1, 5)]
    return tuple(sorted({length for lengths in issuers for length in lengths}, reverse=True))
