"""Promises that are not ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.promise_words import PROMISE

_MONEY_TALK = re.compile(
    r"\b(?:money|geld|argent|dinero|soldi|denaro|dinheiro|centen|(?:shipping|delivery|postage|handling) (?:costs?|fees?|charges?)|\w*versandkosten|portokosten|lieferkosten"
    r"|frais|gastos|spese|frete|portes|verzendkosten|bezorgkosten|owed?|owes|nothing|nichts|rien|nada|nulla|niente|niets|for less|pays? less|weniger|moins|menos|meno"
    r"|minder|half|halfte|moitie|mitad|meta|metade|helft|no charge|(?:full|whole|entire) (?:amount|price|sum)|(?:vollen?|ganzen?) (?:betrag|preis|summe)"
    r"|(?:dollars?|euros?|pounds?|francs?) off|knock\w* off|(?:goes|go|going|sent?|send|ship\w*|give\w*|get|take|taken|bring) (?:\w+ )?back|wieder(?:bekommen|zuruck)"
    r"|(?:per|at|on|by) your (?:own )?request|as (?:you )?(?:requested|asked|wished)|wie gewunscht|auf ihren wunsch|a votre demande|selon votre demande"
    r"|como (?:solicitaste|solicito|pidio|pediste|solicitado|pediu)|come richiesto|op (?:uw|je) verzoek)\b",
    re.IGNORECASE,
)
_IF = re.compile(
    r"\b(?:if|unless|in case|should (?:you|it|the|your)|falls|wenn|(?-i:Sollten?)|im falle?|s'il|si (?!bien)|en cas|caso|en caso|se (?:non|ha|hai|qualcosa|vuole|vuoi|il|la|lo|nao|voce|tiver|algo|o|a)"
    r"|in caso|als (?:u|je|het|er|iets)|indien|mocht(?:en)?|bij (?:vertraging|schade))\b|\bbei (?!fragen|ihnen|dir|uns|euch|the\b|ruck)(?-i:[A-Z])",
    re.IGNORECASE,
)
_HELP = re.compile(
    r"question|help|frage|dudas?|pregunt|domand|duvid|vragen|vraag|contact|kontakt|reach|write|let us know|assist|hilfe|aide|ayuda|aiuto|ajuda|hulp|besoin|need|consult|support|schreib",
    re.IGNORECASE,
)
_IN_WORD = re.compile(r"(?<=[^\W\d_])[-.*_'/](?=[^\W\d_])")
_SPACED = re.compile(r"(?<!\w)[^\W\d_](?:[ .*_-]{1,2}[^\W\d_](?!\w)){3,}")


def promises(text: str) -> Iterator[Finding]:
    """Words of promise, also with dashes or dots within them ("re-fund"), or letter by letter ("f r e e")."""
    found = [match.group() for match in PROMISE.finditer(text)]
    found += [match.group() for match in PROMISE.finditer(_IN_WORD.sub("", text))]
    for word in dict.fromkeys(found):
        yield Finding(Kind.PROMISE, word.lower(), "is not ours to promise")
    for match in _MONEY_TALK.finditer(text):
        yield Finding(Kind.PROMISE, match.group().lower(), "speaks of money without an amount, or of a request")
    for sentence in re.split(r"[.!?\n]", text):
        condition = _IF.search(sentence)
        if condition and not _HELP.search(sentence):
            yield Finding(Kind.PROMISE, condition.group().lower(), "makes a condition that is not ours")
    for match in _SPACED.finditer(text):
        yield Finding(Kind.LANGUAGE, match.group(), "is spelled letter by letter")
