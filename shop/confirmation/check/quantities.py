"""Items and how many of each: all of the order's, none besides, and no number that is nothing of the order's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.lines import Lines
from shop.confirmation.check.quoting import Quoted
from shop.confirmation.check.signs import FIRST_ITEM, ITEM
from shop.confirmation.check.words import AND, COUNT, COUNTED, NUMBER_WORD, NUMBER_WORDS, OFTEN_SOMETHING_ELSE

Span = tuple[int, int]

_SHOWN = 10
"""Lines that the template names; a longer order need not be named whole."""

_TIMES = rf"(?:(?!couple|pair|dozen)(?-i:[a-z]{{3,}}) (?:of|de|di|von|van)|pairs? of|paar|paires? de|par(?:es)? de|paia di|x|\*|mal|keer(?: een)?|veces|volte|vezes|fois|times|of|de|di|van|von|pcs?\.?|stk\.?|st\.|ud[s]?\.?|pz\.?|{COUNTED}(?: (?:of|de|di|van|von))?)"
_KIND = r"(?:new|neue[nrms]?|nouveaux?|nouvelles?|nuev[oa]s?|nuov[oiae]|nov[oa]s?|nieuwe|of (?:your|the|our)|(?!x )(?-i:[a-z]{2,}))"
_BEFORE_ITEM = re.compile(rf"(?<![\w.,])({COUNT})\)? ?(?:{_TIMES} ?)?(?:{_KIND} )?[\"'(\[]*({ITEM})", re.IGNORECASE)
_AFTER_ITEM = re.compile(
    rf"({ITEM})[\"')\]]* ?[(\[,:|/-]* ?(?:(?:(?:x|\*|qty\.?|quantity|quantities|menge|anzahl|quantite|qte\.?|cantidad|cant\.|quantita|q\.ta|qta|quantidade|qtd\.?|aantal) ?[:=|x-]? ?|)({COUNT})(?! ?[.,]?\d)(?! ?x {ITEM})"
    rf"|({COUNT}) ?(?:x(?! ?{ITEM})|{COUNTED}(?!\w)))",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    rf"(?<![\w.,])({COUNT}) (?:\w+ )?{COUNTED}(?!\w)|\b{COUNTED}(?: (?:in total|[a-z]+))? ?[:=] ?(\d+)(?![\d.,]\d)",
    re.IGNORECASE,
)
_MORE = re.compile(
    rf"({COUNT}) (?:more|others?|other items|further|weitere\w*|autres?|mas|otros|altri|mais|outros|andere|meer)\b", re.IGNORECASE
)
_TWICE = re.compile(rf"({NUMBER_WORD}) \((\d+)\)", re.IGNORECASE)
_OF_THEM = re.compile(
    rf"({COUNT}) (?:of (?:them|these|each)|davon|d'entre (?:eux|elles)|de (?:ellos|ellas)|di (?:essi|esse)|deles|delas|ervan)\b",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"\b24/7\b|^\W{0,3}\d{1,2}[.)] (?=[^\W\d]|[\ue000-\uf8ff])|\b(?:1|one|an?) (?:single )?(?:box|parcel|package|shipment|paket|colis|paquete|pacco|pacote|pakket)\b|\b100 ?% (?!off)(?=ready)",
    re.IGNORECASE | re.MULTILINE,
)
_ADDED = re.compile(
    rf"{ITEM}[\"')]*(?: ?\([^()\n]*\))?,? {AND} (?:also )?(?:an?|one|eine?[nm]?|une?|un[ao]?|uma?|een|ihre[nm]?|your|votre|su|tu)"
    r" (?!total|sum|grand|warm|quick|note|copy|confirmation|order|payment|shipment|delivery|summe|gesamt|somme|montant|importe|parcel|tracking|email|e-mail|mail|address|adresse|patience)[^\W\d_]{3,}",
    re.IGNORECASE,
)
_PAPERS = (
    r"(?:e-?mails?|mails?|messages?|texts?|notes?|notifications?|notices?|updates?|cop(?:y|ies)|confirmations?|receipts?|invoices?|summar(?:y|ies)|tracking\w*|numbers?|codes?|shipments?|parcels?|packages?|deliver(?:y|ies)"
    r"|answers?|repl(?:y|ies)|\w*nummer|\w*bestatigung|nachricht|meldung|rechnung|\w*mail|courriel|numero|code|facture|avis|correo|mensaje|codigo|confirmacion|aviso|notificacion|messaggio|codice|conferma|avviso"
    r"|notifica|mensagem|confirmacao|notificacao|bericht|bevestiging|factuur)"
)
_EXTRA = re.compile(
    r"\b(?:receiv(?:e|ing)|gets?|includ(?:e[sd]?(?: is)?|ing)|contain(?:s|ing)?|comes? with|added|enclosed|packed|erhalten|erhaltst|bekommen|bekommst|enthalt|beigelegt|recevrez|recevras|comprend|contient|trouverez"
    r"|recibira|recibiras|incluye|contiene|encontraras?|ricever\w+|ricevi|include|comprende|trover\w+|receb\w+|inclui|contem|vem com|krijgt?|ontvangt?|bevat)"
    r"(?: (?:you|sie|du|je|u|also|too|auch|ausserdem|zusatzlich|noch|aussi|egalement|tambien|ademas|anche|inoltre|tambem|ook|nog)){0,2}"
    rf" (?:an?|another|some|eine?[nm]?|une?|un[ao]?|uma?|een) (?!(?:[\w-]+ ){{0,3}}{ITEM}|(?:[\w-]+ ){{0,2}}{_PAPERS}\b)(?:[^\W\d_]|-){{3,}}",
    re.IGNORECASE,
)
"""What the order "also" has. Papers and messages are no items."""
_ALTERED = re.compile(
    rf"({ITEM}) (?!(?:Total|Gesamt|Summe|Menge|Preis|Qty|Quantity|Price|Your|Ihr|Sie|We|Wir|The|Our|Die|Der|Das|An|Bis|Thank)\b)((?:[A-Z][a-z]{{2,}}|[A-Z]{{2}})(?:-\w+)?|Pro|Max|Plus|Mini|XL)\b"
)


def quantities(text: Quoted, lines: Lines, money: list[Span]) -> tuple[list[Finding], list[Span]]:
    """What is wrong with items and counts, and where counts stand, right or wrong."""
    findings: list[Finding] = []
    spans: list[Span] = []
    for element in _elements(text.text):
        findings += _of_items(text, element, lines, spans, money)
    for match in _HARMLESS.finditer(text.text):
        spans.append(match.span())
    for match in _MORE.finditer(text.text):
        spans.append(match.span(1))
        if count(match[1]) not in (lines.count - _SHOWN, lines.pieces - _SHOWN, lines.count - _named(text)):
            findings.append(Finding(Kind.QUANTITY, match[1], "more is not what the order has"))
    for match in _TWICE.finditer(text.text):
        if count(match[1]) == int(match[2]):
            spans.append(match.span(1))
    for match in _OF_THEM.finditer(text.text):
        spans.append(match.span(1))
        if not any(count(match[1]) in (*lines.quantities(name), lines.pieces) for name in lines.names()):
            findings.append(Finding(Kind.QUANTITY, match[1], "is not how many were ordered"))
    findings += _counts(text.text, lines, spans)
    findings += _names(text, lines)
    return findings, spans


def left_over(text: str, spans: list[Span]) -> Iterator[Finding]:
    """Numbers that are none of the order's: neither amounts nor quantities, nor within its own data."""
    for match in re.finditer(rf"[\w#]*\d[\w#]*(?:[-_./,:]\w*\d\w*)*|{NUMBER_WORD}", text, re.IGNORECASE):
        word = match.group()
        if not any(map(str.isdigit, word)) and word.lower() in OFTEN_SOMETHING_ELSE:
            continue
        digits = [match.start() + at for at, letter in enumerate(word) if letter.isdigit()] or [match.start()]
        if not all(any(start <= digit < end for start, end in spans) for digit in digits):
            yield Finding(Kind.NUMBER, word, "is not of this order")


def count(said: str) -> int:
    """The number that digits or a word say."""
    low = said.lower()
    return NUMBER_WORDS[low] if low in NUMBER_WORDS else int("".join(filter(str.isdigit, said))[:30])


def _elements(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    for element in text.split("\n\n"):
        yield at, element
        at += len(element) + 2


def _of_items(text: Quoted, element: tuple[int, str], lines: Lines, spans: list[Span], money: list[Span]) -> Iterator[Finding]:
    """Numbers right before or right after an item; for lines of the same name their numbers together."""
    offset, words = element
    said: dict[str, list[tuple[int, str]]] = {}
    taken: set[int] = set()
    for match in _BEFORE_ITEM.finditer(words):
        said.setdefault(text.item(match[2]), []).append((count(match[1]), match[1]))
        spans.append((offset + match.start(1), offset + match.end(1)))
        taken.add(match.start(1))
    for match in _AFTER_ITEM.finditer(words):
        group = 2 if match[2] else 3
        if (
            match.start(group) in taken
            or any(start <= offset + match.start(group) < end for start, end in money)
            or (group == 2 and match[2].lower() in NUMBER_WORDS)
        ):
            continue
        said.setdefault(text.item(match[1]), []).append((count(match[group]), match[group]))
        spans.append((offset + match.start(group), offset + match.end(group)))
    for name, numbers in said.items():
        ordered = lines.quantities(name)
        left = ordered if len(ordered) > 1 else ordered * len(numbers)
        if [number for number, _ in numbers] == [sum(ordered)]:
            continue
        for number, as_said in numbers:
            if number in left:
                left.remove(number)
            else:
                yield Finding(Kind.QUANTITY, as_said, "is not how many of this item were ordered")


def _counts(text: str, lines: Lines, spans: list[Span]) -> Iterator[Finding]:
    for match in _COUNTED.finditer(text):
        group = 1 if match[1] else 2
        span = match.span(group)
        if any(start <= span[0] < end for start, end in spans):
            continue
        word = match[group].lower()
        spans.append(span)
        if word in OFTEN_SOMETHING_ELSE and word not in ("one", "beiden"):
            continue
        if count(match[group]) not in (lines.pieces, lines.count):
            yield Finding(Kind.QUANTITY, match[group], "is not how many items the order has")


def _names(text: Quoted, lines: Lines) -> Iterator[Finding]:
    if lines.count <= _SHOWN and _named(text) < len(text.items):
        yield Finding(Kind.ITEM, "", "an item of the order is not named")
    for match in (*_ADDED.finditer(text.text), *_EXTRA.finditer(text.text)):
        yield Finding(Kind.ITEM, re.sub(ITEM, "...", match.group()), "was not ordered")
    for match in _ALTERED.finditer(text.text):
        yield Finding(Kind.ITEM, match[2], "is not part of the item's name")


def _named(text: Quoted) -> int:
    return sum(chr(ord(FIRST_ITEM) + index) in text.text for index in range(len(text.items)))
