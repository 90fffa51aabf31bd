"""Finds where a text quotes the order's own data, and sets one sign in place of each quotation.

What is left are the writer's own words, and those are what the other checks read. So "Gluten-free bread" or a customer
called "say free refund" stops no text, while the same words anywhere else do. A fact that could pass for a statement of
ours ("free", "5 USD", "1984") counts as quoted only where such data stands: an item beside its quantity, the customer
after a salutation or before the address, a part of the address beside another part, a number of an order after "order".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shop.confirmation.check.contacts import CONTACT
from shop.confirmation.check.countries import country_names
from shop.confirmation.check.delivery import TIME, estimate_pattern
from shop.confirmation.check.normal import is_foreign, looks, normal, readable
from shop.confirmation.check.promise_words import PROMISE
from shop.confirmation.check.signs import CUSTOMER, ESTIMATE, FIRST_ITEM, ITEM, MAIL, ORDER_ID, PLACE, SHOP
from shop.confirmation.check.words import COUNT, COUNTED, STOP_WORDS
from shop.confirmation.facts import NOBODY, ConfirmationFacts
from shop.money import is_currency
from shop.order import Order
from shop.settings import Settings

SALUTATION = (
    r"(?:dear|hello|hi|hey|welcome|greetings|thank you|thanks|good (?:morning|day|afternoon|evening)|hallo|guten (?:tag|morgen|abend)|liebe[rs]?|moin"
    r"|sehr geehrte[rs]?|vielen dank|danke|bonjour|bonsoir|salut|chere?|merci|hola|buen[oa]s (?:dias|tardes|noches)|buen dia|estimad[oa]|querid[oa]|gracias"
    r"|ciao|salve|buongiorno|buonasera|gentile|gentilissim[oa]|car[oa]|grazie|ola|bom dia|boa tarde|prezad[oa]|carissim[oa]|obrigad[oa]"
    r"|beste|geachte|goedendag|goedemorgen|dag|bedankt|dank u)"
)
TITLE = r"(?:(?:mr|mrs|ms|mx|dr|prof|herrn?|frau|mm?|mme|mlle|monsieur|madame|sr|sra|srta|senora?|senor|don|dona|sig|sig\.ra|signora?|signor|de heer|heer|mevrouw|mevr|dhr)\.? )"

_MONEY = re.compile(r"[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]|\d[.,]\d\d\b|\d ?(?P<after>[A-Z]{3})\b|\b(?P<before>[A-Z]{3}) ?\d", re.IGNORECASE)
_FILLERS = frozenset(
    "say says give gives get gets full please shipping delivery versand livraison envio now money customer customers everything everyone order refund "
    "today next half total write tell must promise".split()
)
_ORDER_WORD = r"(?:order|bestell\w*|auftrag\w*|commande|pedido|ordine|encomenda|bestelling\w*|number|nummer|numero|id|no|nr|n|#)"


@dataclass(frozen=True, slots=True)
class Quoted:
    """A text whose quotations are signs, and what the signs stand for."""

    text: str
    """Only the writer's own words, and signs (see `signs`)."""
    items: tuple[str, ...]
    """The items' names, each once, in the sequence of their signs."""
    foreign: bool
    """Whether the writer's own words hold letters of a script that the checks cannot read."""

    def item(self, sign: str) -> str:
        """The name that the sign stands for."""
        return self.items[ord(sign) - ord(FIRST_ITEM)]


@dataclass(frozen=True, slots=True)
class _Fact:
    text: str
    sign: str
    anywhere: bool
    exact_case: bool = False


def quoted(text: str, order: Order, facts: ConfirmationFacts, settings: Settings) -> Quoted:
    """The text with signs in place of what it quotes."""
    plain = readable(text)
    items = tuple(dict.fromkeys(normal(item.name) for item in facts.items))
    known = [fact for fact in _facts(items, order, facts, settings) if fact.text]
    signed = _estimate(looks(plain), settings)
    known.sort(key=lambda fact: -len(fact.text))  # so that a "Mouse pad" is not a mouse
    for fact in known:
        signed = _anywhere(signed, fact) if fact.anywhere else _beside(signed, fact)
    for fact in known:  # once more: a zip code may stand beside a state that was found later
        signed = signed if fact.anywhere else _beside(signed, fact)
    own = plain
    for spelled in sorted({readable(fact) for fact in _foreign_facts(order, facts)} - {""}, key=len, reverse=True):
        own = _anywhere(own, _Fact(spelled, SHOP, True))
    return Quoted(signed, items, any(map(is_foreign, own)))


def _facts(items: Iterable[str], order: Order, facts: ConfirmationFacts, settings: Settings) -> Iterator[_Fact]:
    order_id = normal(facts.order_id)
    yield _Fact(order_id, ORDER_ID, any(map(str.isalpha, order_id)), exact_case=True)
    for mail in (settings.support_email, settings.shop_email):
        yield _Fact(normal(mail), MAIL, True)
    for shop in (settings.shop_name, settings.shop_address):
        yield _Fact(normal(shop), SHOP, _clean(normal(shop)))
    for index, name in enumerate(items):
        yield _Fact(name, chr(ord(FIRST_ITEM) + index), _clean(name) or _has_words_of_its_own(name))
    to = order.shipping_info
    if facts.personal:
        yield _Fact(normal(facts.customer_name), CUSTOMER, _clean(normal(facts.customer_name)))
    yield _Fact(NOBODY, CUSTOMER, True)
    if to:
        whole = normal(facts.shipping_address)
        yield _Fact(whole, PLACE, len(whole) > 10)
        places = [to.name or "", to.address, to.address2 or "", to.city, to.state or "", to.zip or ""]
        yield from (_Fact(place, PLACE, _clean(place) and len(place) > 3, len(place) <= 3) for place in map(normal, places))
        yield from (_Fact(name, PLACE, len(name) > 3, exact_case=True) for name in country_names(to.country))


def _clean(fact: str) -> bool:
    """Whether it says nothing that a text could not say by itself, so that it is a quotation wherever it stands."""
    telling = PROMISE.search(fact) or _money(fact) or CONTACT.search(fact) or TIME.search(fact)
    return not telling and sum(map(str.isalpha, fact)) >= 2 and fact.lower() not in STOP_WORDS


def _money(fact: str) -> bool:
    for match in _MONEY.finditer(fact):
        code = match["after"] or match["before"]
        if not code or is_currency(code.upper()):
            return True
    return False


def _has_words_of_its_own(name: str) -> bool:
    """Whether it is a name of something, and not just a promise: "Sugar-free gum", but not "full refund now"."""
    words = re.findall(r"[^\W\d_]{3,}", PROMISE.sub(" ", name).lower())
    return any(word not in STOP_WORDS and word not in _FILLERS for word in words)


def _pattern(fact: str) -> str:
    return r"[\s,]+".join(map(re.escape, re.split(r"[\s,]+", fact))) if len(fact) > 3 else re.escape(fact)


def _whole(pattern: str) -> str:
    """ORDER-1001 does not stand in ORDER-10012, nor Laptop in Laptop-Bag."""
    return rf"(?:(?<!\w)(?<!\w[-./])|(?<=\dx)){pattern}(?!-?\w)(?![./]\w)"


def _anywhere(text: str, fact: _Fact) -> str:
    plural = "(?:es|s|en|n|e)?" if fact.sign >= FIRST_ITEM and fact.text[-1].isalpha() else ""
    return re.sub(_whole(_pattern(fact.text) + plural), fact.sign, text, flags=0 if fact.exact_case else re.IGNORECASE)


def _estimate(text: str, settings: Settings) -> str:
    return re.sub(estimate_pattern(normal(settings.estimated_delivery)), ESTIMATE, text, flags=re.IGNORECASE)


def _beside(text: str, fact: _Fact) -> str:
    """What counts only where such data stands."""
    here = _whole(_pattern(fact.text))
    flags = re.MULTILINE | (0 if fact.exact_case else re.IGNORECASE)
    if fact.sign == ORDER_ID:
        return re.sub(
            rf"((?i:\b{_ORDER_WORD}\W{{0,4}}(?:is |id|number|nummer|no\.?|nr\.?)?\W{{0,3}})){here}", rf"\1{ORDER_ID}", text, flags=flags
        )
    if fact.sign == CUSTOMER:
        text = re.sub(rf"^(\W*{SALUTATION},? {TITLE}?){here}", rf"\1{CUSTOMER}", text, flags=flags)
        return re.sub(rf"(\b(?:to|an|a|para|aan|naar|pour) |^){here}(?=[\s,]+{PLACE})", rf"\1{CUSTOMER}", text, flags=flags)
    if fact.sign >= FIRST_ITEM:
        text = re.sub(rf"({COUNT} ?(?:x|\*|mal|fois) ?(?:of )?[\"']?){here}", rf"\1{fact.sign}", text, flags=flags)
        return re.sub(rf"{here}(?=[\"']? ?[(:,-]? ?(?:x ?\d|\d+ ?{COUNTED}))", fact.sign, text, flags=flags)
    text = re.sub(rf"((?:{CUSTOMER}|{PLACE})[\s,]+){here}", rf"\1{fact.sign}", text, flags=flags)
    return re.sub(rf"{here}(?=[\s,]+{PLACE})", fact.sign, text, flags=flags)


def _foreign_facts(order: Order, facts: ConfirmationFacts) -> Iterator[str]:
    """Also the single words of names: a customer may be called by the first one."""
    to = order.shipping_info
    wholes = [facts.customer_name, facts.shipping_address, facts.order_id, *(item.name for item in facts.items)]
    wholes += [to.name or "", to.address, to.address2 or "", to.city, to.state or "", to.zip or ""] if to else []
    wholes += [facts.estimated_delivery]
    yield from wholes
    for whole in wholes:
        yield from (word for word in re.findall(r"\w+", whole) if any(map(is_foreign, word)))


__all__ = ["ITEM", "SALUTATION", "TITLE", "Quoted", "quoted"]
