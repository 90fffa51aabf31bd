"""Amounts of money: each must be the order's, and the one that the words beside it say it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from shop.confirmation.check.currencies import marks_beside, stands_for
from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.lines import Lines
from shop.confirmation.check.numbers import NUMBER, value_of
from shop.confirmation.check.quoting import Quoted
from shop.confirmation.check.signs import ITEM
from shop.confirmation.check.words import COUNT, COUNTED
from shop.money import round_to
from shop.order import Order

_ROLES: dict[str, str] = {
    "subtotal": r"sub-? ?total\w*|zwischensumme|warenwert|sous-total|subtotale|subtotaal|totale parziale|items total|net(?:to)? amount",
    "tax": r"(?:sales )?tax\w*|vat|mwst\.?|mehrwertsteuer|steuern?|umsatzsteuer|tva|taxes?|iva|impuestos?|impost[oei]s?|btw|belasting",
    "shipping": (
        r"shipping|delivery(?! (?:address|estimate|time))|postage|handling|versand(?:kosten)?|frais de port|frais de livraison|livraison|envio|gastos de envio|spedizione"
        r"|spese di spedizione|frete|portes|verzending|verzendkosten"
    ),
    "discount": r"\w*discount\w*|\w*rabatt\w*|nachlass|remise|descuentos?|sconto|desconto|korting",
    "total": (
        r"(?:grand |order |overall |full )?totals?|totall?ing|altogether|in all|comes? to|came to|amount(?:s|ing|ed)?(?: to| of)?|sum|(?:gesamt|rechnungs|end|bestell)\w*(?:betrag|summe|preis|wert)|gesamt|insgesamt"
        r"|summe|betrag|montant|somme|importe|suma|totale|importo|somma|valor|totaal|totaalbedrag|bedrag|eindbedrag|total(?:es|e)?"
        r"|charg(?:e|ed|ing)|paid|pay(?:s|ment|able|ing)?|debit(?:ed)?|bill(?:ed)?|balance|due|owe|order value|value|worth"
        r"|bezahl\w*|abgebucht|belastet|zahl\w*|paye\w*|regle\w*|reglement|paiement|debite\w*|pag[oa]\w*|abon\w*|cobr\w*|addebit\w*|pagat\w*|debitad\w*|betaal\w*|betaling|afgeschreven|in rekening"
    ),
    "price": r"price[ds]?|costs?|preise?|prix|precios?|prezz[oi]|precos?|prijs|prijzen|kostet|kosten|coute|cuesta\w*|costa\w*|custa\w*|kost",
}
_ROLE = re.compile("|".join(rf"(?P<{role}>\b(?:{words})(?!\w))" for role, words in _ROLES.items()), re.IGNORECASE)
_EACH = re.compile(
    r"(?: ?\((?=[\w ]+\))|[ ,]*\)?)(?:/|- ?)? ?(?:each|a ?piece|apiece|per (?:unit|piece|item|stuk|pezzo|unita|unite)|unit price|je|pro stuck|das stuck|stuckpreis|/ ?stuck|piece\b|l'?unite|l'?une?\b|chacune?|par piece|pour chaque"
    r"|cada un[oa]|cada|c/u|por unidad|la unidad|cadauno|ciascun[oa]|l'?un[oa]|al pezzo|cad\.|por unidade|a unidade|por peca|per stuk|elk|stuk)(?!\w)",
    re.IGNORECASE,
)
_TOGETHER = re.compile(
    r"(?: ?\((?=[\w ]+\))|[ ,]*\)?) ?(?:together|in total|altogether|total|zusammen|insgesamt|gesamt|ensemble|au total|en tout|juntos|en total|insieme|in totale|in tutto|juntos|no total|samen|in totaal|combined|for both|all in)(?!\w)",
    re.IGNORECASE,
)
_OF_ITEM = re.compile(
    rf"[ ,]*(?:for|fur|pour|por|per|pelo|pela|voor|von|of)(?: \w+)? ?(?:{COUNT} ?(?:x|{COUNTED}(?: \w+)?)? ?)?[\"']?({ITEM})", re.IGNORECASE
)
_TIGHT = re.compile(
    r"[\"' s]*(?:[(:@=|-] ?|at |a |zu |zum (?:stuck)?preis von |je |fur je |au prix de |a un precio de |al prezzo di |por |voor |tegen |priced at |costs? )+(?:only |nur )?$",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"\([^()\n]*$")
_BREAK = re.compile(r"[;\n!?]|\.(?= |$)")
_IN_WORDS = re.compile(
    r"\b(?:hundred|thousand|(?<!thanks a )million|hundert|tausend|cent(?= (?:euros?|dollars?))|mille|mil|cien|ciento|duizend|honderd|cento)\b"
    r"(?! (?:thanks|dank|mercis?|grazie|gracias|fois|obrigad\w|bedankt|remerciements))"
    r"|\b(?!of |in |in us |canadian |american |many |few )[a-z-]+ (?:dollars|bucks|euros?|cents|pounds sterling|dolares|dollari|reais|franken)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Amount:
    start: int
    end: int
    said: str
    value: Decimal | None
    marks: list[str]
    minus: bool


def amounts(text: Quoted, order: Order, lines: Lines) -> tuple[list[Finding], list[tuple[int, int]]]:
    """What is wrong with the amounts, and where all amounts stand, right or wrong."""
    found = list(_amounts(text.text, order.currency))
    findings = [Finding(Kind.AMOUNT, match.group(), "says an amount in words") for match in _IN_WORDS.finditer(text.text)]
    previous: tuple[_Amount, frozenset[str]] | None = None
    for amount in found:
        findings += [
            Finding(Kind.CURRENCY, mark, f"is not the order's, which is {order.currency}")
            for mark in amount.marks
            if not stands_for(mark, order.currency)
        ]
        items = _items_of(text, amount, previous)
        allowed, what = _allowed(text, amount, items, order=order, lines=lines, previous=previous)
        if amount.value is None or (amount.minus and amount.value) or amount.value not in allowed:
            findings.append(Finding(Kind.AMOUNT, amount.said, f"is not {what}"))
        previous = (amount, items)
    return findings, [(amount.start, amount.end) for amount in found]


def says_the_total(text: Quoted, order: Order) -> bool:
    """Whether the amount that the customer pays stands in the text."""
    total = round_to(order.total_amount, order.currency)
    return any(amount.value in (total, order.total_amount) for amount in _amounts(text.text, order.currency))


def _amounts(text: str, currency: str) -> Iterator[_Amount]:
    """A number is money if a mark stands beside it, or if it has decimals, or if what stands before it says so."""
    for match in NUMBER.finditer(text):
        start, end, marks = marks_beside(text, match.start(), match.end())
        with_decimals = re.search(r"[.,](?:\d\d|-)$", match.group())
        label = _ROLE_BEFORE.search(text[max(0, start - 40) : start])
        if marks or with_decimals or (label and not re.match(rf" ?(?:x |{COUNTED}\b)", text[end:], re.IGNORECASE)):
            minus = bool(re.search(r"(?:^|[\s(:$])-$", text[max(0, start - 2) : start])) or "-" in text[start : match.start()]
            yield _Amount(start, end, match.group(), value_of(match.group(), currency), marks, minus)


_ROLE_BEFORE = re.compile(
    rf"\b(?:{'|'.join(_ROLES[role] for role in ('subtotal', 'tax', 'discount', 'total', 'price'))})"
    r"(?: (?:is|was|of|at|to|comes to|ist|betragt|von|est|de|es|e|di|bedraagt|is van|sera|being|now|just|only))*[: =|]*\Z",
    re.IGNORECASE,
)


def _before(text: str, amount: _Amount, previous: _Amount | None) -> tuple[str, bool]:
    """What stands between this amount and what went before it in the sentence, and whether that is another amount."""
    since = previous.end if previous else 0
    between = text[since : amount.start]
    breaks = list(_BREAK.finditer(between))
    return (between[breaks[-1].end() :], False) if breaks else (between, previous is not None)


def _items_of(text: Quoted, amount: _Amount, previous: tuple[_Amount, frozenset[str]] | None) -> frozenset[str]:
    """The item that the amount stands beside; none if it stands alone."""
    after = _OF_ITEM.match(text.text, amount.end)
    if after:
        return frozenset({text.item(after[1])})
    before, follows = _before(text.text, amount, previous[0] if previous else None)
    signs = re.findall(ITEM, before)
    if signs:
        return frozenset({text.item(signs[-1])})
    return previous[1] if follows and previous and len(before) <= 40 else frozenset()


def _allowed(
    text: Quoted,
    amount: _Amount,
    items: frozenset[str],
    *,
    order: Order,
    lines: Lines,
    previous: tuple[_Amount, frozenset[str]] | None,
) -> tuple[set[Decimal], str]:
    before, follows = _before(text.text, amount, previous[0] if previous else None)
    own = list(_ROLE.finditer(before))
    last_item = max((match.end() for match in re.finditer(ITEM, before)), default=-1)
    role = next((match.lastgroup for match in reversed(own) if match.start() > last_item), None)
    role = role or (own[-1].lastgroup if own and last_item < 0 else None)
    after = text.text[amount.end : amount.end + 30]
    total = {round_to(order.total_amount, order.currency), order.total_amount}
    if role in ("tax", "shipping"):
        both = {order.tax_amount, order.shipping_amount} if any(match.lastgroup in ("tax", "shipping") for match in own[:-1]) else set()
        return {order.tax_amount if role == "tax" else order.shipping_amount} | (both if len(both) == 1 else set()), f"the order's {role}"
    if role == "discount":
        return {order.discount_amount}, "the order's discount"
    prices = {price for item in items for price in lines.prices(item)}
    together = {price for item in items for price in lines.totals(item)}
    if role == "subtotal":
        return {order.items_total, round_to(order.items_total, order.currency)} | (
            together if last_item >= 0 else set()
        ), "the sum of the items"
    if _EACH.match(after) and items:
        return prices, "the price of the item"
    if role == "total":
        tight = bool(items) and (
            bool(_IN_BRACKETS.search(before))
            or (follows and bool(re.match(r" ?[,(=-]? ?(?:each|je|pro stuck|chacune?|cada|per stuk|apiece)", before, re.IGNORECASE)))
        )
        return total | (together if tight else set()), "the order's total"
    if not items:
        return total, "the order's total" if role != "price" else "a price of the order"
    if _TOGETHER.match(after):
        return together | total, "the price of these items"
    if role == "price" or last_item < 0:
        return prices | together | (total if last_item < 0 and role != "price" else set()), "the price of the item"
    tight_item = _TIGHT.fullmatch(before[last_item:]) and not ("+" in before and before.rstrip().endswith("="))
    return prices | together | (set() if tight_item else total), "the price of the item"
