"""Signs, codes and words of currencies beside a number."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.money import is_currency

_DOLLARS = frozenset("USD CAD AUD NZD SGD HKD TWD MXN ARS CLP COP JMD TTD BBD BSD BZD FJD NAD XCD".split())
_PESOS = frozenset("MXN ARS CLP COP UYU DOP PHP".split())
_FRANCS = frozenset("CHF XAF XOF XPF RWF GNF DJF BIF KMF".split())
_SIGNS: dict[str, Collection[str]] = {
    "$": _DOLLARS,
    "€": ["EUR"],
    "£": ["GBP", "EGP"],
    "¥": ["JPY", "CNY"],
    "₹": ["INR"],
    "₩": ["KRW"],
    "₺": ["TRY"],
    "₫": ["VND"],
    "₽": ["RUB"],
    "₪": ["ILS"],
    "₴": ["UAH"],
    "₦": ["NGN"],
    "฿": ["THB"],
    "₱": ["PHP"],
    "₡": ["CRC"],
    "₲": ["PYG"],
    "₸": ["KZT"],
    "us$": ["USD"],
    "r$": ["BRL"],
    "c$": ["CAD"],
    "ca$": ["CAD"],
    "a$": ["AUD"],
    "au$": ["AUD"],
    "nz$": ["NZD"],
    "s$": ["SGD"],
    "hk$": ["HKD"],
    "mx$": ["MXN"],
    "nt$": ["TWD"],
    "cn¥": ["CNY"],
    "jp¥": ["JPY"],
}
_WORDS: dict[str, Collection[str]] = {
    **dict.fromkeys(["dollar", "dolar", "dolare", "dollaro", "dollari", "buck"], _DOLLARS),
    **dict.fromkeys(
        ["us-dollar", "us dollar", "dollars americains", "dolares estadounidenses", "dollari statunitensi", "amerikanische dollar"],
        ("USD",),
    ),
    **dict.fromkeys(["euro"], ("EUR",)),
    **dict.fromkeys(["pound", "pfund", "livre", "libra", "sterlina", "sterline", "pond", "pounds sterling", "quid"], ("GBP", "EGP")),
    **dict.fromkeys(["yen"], ("JPY",)),
    **dict.fromkeys(["yuan", "renminbi", "rmb"], ("CNY",)),
    **dict.fromkeys(["rupee", "rupie", "rupia"], ("INR", "PKR", "LKR", "NPR")),
    **dict.fromkeys(["franc", "franken", "franco", "franchi", "frank", "fr.", "sfr."], _FRANCS),
    **dict.fromkeys(["real", "reai"], ("BRL",)),
    **dict.fromkeys(["peso"], _PESOS),
    **dict.fromkeys(["won"], ("KRW",)),
    **dict.fromkeys(["zloty", "zl"], ("PLN",)),
    **dict.fromkeys(["krona", "krone", "kronor", "kroner", "kr", "kr."], ("SEK", "NOK", "DKK", "ISK")),
    **dict.fromkeys(
        ["bitcoin", "btc", "usdt", "cent", "centime", "centavo", "centesimi", "rappen", "penny", "pence", "centimo", "usdc", "satoshi"], ()
    ),
}
_BY_LENGTH = sorted(_WORDS, key=len, reverse=True)
_SIGN = r"(?:(?<![A-Za-z])[A-Za-z]{1,3})?[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]"
_WORD = r"(?:(?:" + "|".join(map(re.escape, _BY_LENGTH)) + r")(?:e?s)?(?!\w)|[A-Za-z]{3}(?!\w))"
_BEFORE = re.compile(rf"({_SIGN}|(?<!\w){_WORD}) ?(-?)\Z", re.IGNORECASE)
_AFTER = re.compile(rf" ?({_SIGN}|{_WORD})", re.IGNORECASE)
_ALONE = re.compile(
    rf"{_SIGN}|\b(?:USD|EUR|GBP|JPY|CHF|CAD|AUD|CNY|INR|BRL|MXN|SEK|NOK|DKK|PLN)\b|\b(?i:dollars?|euros?|pounds sterling|bitcoins?|yen|rupees?|franken)\b"
)


def marks_beside(text: str, start: int, end: int) -> tuple[int, int, list[str]]:
    """The span with the marks beside the number, and the marks. Three letters are a mark only if they are a currency."""
    marks = []
    before, after = _BEFORE.search(text[max(0, start - 28) : start]), _AFTER.match(text, end)
    if before and _is_mark(before[1]):
        marks.append(before[1])
        start -= len(before[0])
    if after and _is_mark(after[1]):
        marks.append(after[1])
        end = after.end()
    return start, end, marks


def stands_for(mark: str, currency: str) -> bool:
    """Whether this sign, code or word may mean the currency."""
    if is_currency(mark.upper()) and len(mark) == 3:
        return mark.upper() == currency
    low = mark.lower()
    for spelled in (low, low.removesuffix("s"), low.removesuffix("es")):
        if spelled in _SIGNS or spelled in _WORDS:
            return currency in (_SIGNS.get(spelled) or _WORDS.get(spelled) or ())
    return False


def other_currencies(text: str, currency: str) -> Iterator[Finding]:
    """Also where no number stands beside them: "all prices are in euros"."""
    for match in _ALONE.finditer(text):
        if not stands_for(match.group(), currency):
            yield Finding(Kind.CURRENCY, match.group(), f"is not the order's, which is {currency}")


def _is_mark(mark: str) -> bool:
    low = mark.lower()
    if any(spelled in _WORDS for spelled in (low, low.removesuffix("s"), low.removesuffix("es"))):
        return True
    if re.fullmatch("[a-z]{3}", low):
        return is_currency(mark.upper()) and (mark.isupper() or low in {"usd", "eur", "gbp", "chf", "jpy", "cad", "aud"})
    return True
