"""Where the parcel goes and who is addressed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.normal import normal
from shop.confirmation.check.quoting import SALUTATION, TITLE
from shop.confirmation.check.signs import CUSTOMER, PLACE
from shop.confirmation.facts import ConfirmationFacts

_STREET = re.compile(
    r"\b[A-Z][\w']+ (?:Street|St\.|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Boulevard|Blvd|Court|Terrace|Crescent|Square)(?!\w)|\b[A-Z]\w+(?:strasse|strase|gasse|allee|straat|laan|gracht|plein)\b"
    r"|\b(?:[Rr]ue|[Cc]alle|[Aa]venida|[Pp]laza|[Pp]iazza|[Vv]iale|[Cc]orso|[Rr]ua|[Tt]ravessa|[Pp]raca|Via|Avenue|[Bb]oulevard) (?:(?:de|du|des|la|del|della|do|da|dos) )*[A-Z][\w']+|\b[Pp]\.? ?[Oo]\.? [Bb]ox|\bPostfach\b"
)
_MOVED = re.compile(
    r"\b(?:ship|deliver|send|sent|dispatch|address|destin|versand|versend|versch|liefer|zustell|livr|exped|envoy|envi|entreg|mand|lleg|cheg|recib|receb|ricev|recev|recei|erhalt|ontvang|raggiung|komm|komt|land|expect|spedi|consegn|indirizz|direcci|enderec|adres|verzend|verzond|"
    r"verstu|bezorg|lever|arriv|way|head|unterwegs|weg|onderweg|route|camino|caminho|parcel|paket|pakket|colis|going|goes|bound|neighbo|pick)",
    re.IGNORECASE,
)
_TO = re.compile(
    r"\b(?:to|towards|in|near|nach|naar|vers|a|para|em|en|hasta|fino a|address(?: is)?:?|adresse:?|lieferadresse:?|direccion:?|indirizzo:?|endereco:?|adres:?|destination:?)"
    r" (?:the |your |our )?((?-i:[A-Z])[^\W\d_]+)",
    re.IGNORECASE,
)
_GOES_ON = re.compile(rf"{PLACE}, ([A-Z][a-z]+)(?![\w:])")
_NO_PLACE = frozenset(
    "you your sie ihre ihrer ihrem ihren ihnen hause usted ustedes versand eingang abschluss prufung bestatigung erhalt zahlung zahlungseingang verpackung ubergabe freigabe kurze bearbeitung "
    "ordnung vorbereitung rechnung order orders customer valued us usd eur gbp chf cad january paypal apple google empfang kenntnis voraus moglichkeit auftrag bestellung paket verbindung ruhe lager "
    "the our we voce vostra vostro signoria i".split()
)
_OTHER_PLACES = re.compile(
    r"\b(?:neighbou?rs?|nachbar\w*|voisine?s?|vecin[oa]s?|vicin[oa] di casa|vizinh[oa]s?|buren|buurman|buurvrouw|back door|pick-?up point|parcel locker|packstation|po box|reception desk)\b",
    re.IGNORECASE,
)
_GREETED = re.compile(rf"^\W*(?:{SALUTATION})[ ,]+({TITLE}*)([^,!.:;\n-]{{1,60}})", re.IGNORECASE | re.MULTILINE)
_ANYBODY = frozenset(
    "customer valued sir madam there friend friends shopper team everyone customers kunde kundin kundinnen kunden damen herren client cliente clienti clients klant sie ihnen ihre you your for to and the "
    "i we my our order bestellung usted voce again back from de das".split()
)


def other_places(text: str, facts: ConfirmationFacts) -> Iterator[Finding]:
    """Streets, and names after "to" where something is sent; the order's own address is signs by now."""
    own = {word.lower() for word in re.findall(r"[^\W\d_]{4,}", normal(facts.shipping_address))}
    for match in (*_STREET.finditer(text), *_OTHER_PLACES.finditer(text)):
        yield Finding(Kind.ADDRESS, match.group(), "is not the order's address")
    for match in _GOES_ON.finditer(text):
        if match[1].lower() not in _NO_PLACE:
            yield Finding(Kind.ADDRESS, match[1], "is not part of the order's address")
    for sentence in re.split(r"[.!?\n]", text):
        if _MOVED.search(sentence):
            for match in _TO.finditer(sentence):
                if match[1].lower() not in _NO_PLACE | own:
                    yield Finding(Kind.ADDRESS, match[1], "is not the order's address")


def other_names(text: str, facts: ConfirmationFacts) -> Iterator[Finding]:
    """Who else is greeted. The customer's first or last name alone is as good as the whole one."""
    known = {word.lower() for word in re.findall(r"\w+", normal(facts.customer_name))} | _ANYBODY
    for match in _GREETED.finditer(text):
        greeted = re.split(r"\b(?:and|und|et|y|e|en|for|fur|pour|por|per|voor|from|we|wir)\b", match[2])[0]
        strangers = [word for word in re.findall(r"[^\W\d_]+", greeted) if word[0].isupper() and word.lower() not in known]
        if strangers and CUSTOMER not in greeted:
            yield Finding(Kind.NAME, strangers[0], "is not the customer's name")
