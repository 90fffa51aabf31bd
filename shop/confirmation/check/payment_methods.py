"""How the customer paid, where a text says so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.facts import ConfirmationFacts

_METHODS = {
    "PayPal": r"pay ?pal",
    "Apple Pay": r"apple ?pay",
    "Google Pay": r"google ?pay",
    "credit card": r"credit[- ]cards?|kreditkarte\w*|cartes? de credit|tarjetas? de credito|carte? di credito|cart(?:ao|oes) de credito|creditcards?|kredietkaart",
    "debit card": r"debit[- ]cards?|debitkarte\w*|ec-karte|cartes? de debit|tarjetas? de debito|carte? di debito|cart(?:ao|oes) de debito|debetkaart|pinpas",
    "": (
        r"klarna|bank transfer|wire transfer|uberweisung|lastschrift|virement(?: bancaire)?|transferencia(?: bancaria)?|bonifico(?: bancario)?|overschrijving|ideal(?= payment)|visa(?!\w)|mastercard"
        r"|american express|amex|bank drafts?|money orders?|direct debit|cheques?|(?:by|a|personal) check|in cash|by cash|schecks?|in bar|barzahlung|vorkasse|auf rechnung"
        r"|en especes|mandat|en efectivo|giro postal|assegno|in contanti|em especie|contant|acceptgiro|bitcoin|cash on delivery|nachnahme|contrareembolso|alla consegna|sofortuberweisung|multibanco|boleto|pix|stripe|venmo|cash app|gift card"
    ),
}


def other_payment_methods(text: str, facts: ConfirmationFacts) -> Iterator[Finding]:
    """Methods that are named and are not the order's."""
    own = facts.payment_method.lower()
    for method, words in _METHODS.items():
        for match in re.finditer(rf"\b(?:{words})\b", text, re.IGNORECASE):
            if method.lower() != own and match.group().lower() not in own:
                yield Finding(Kind.PAYMENT_METHOD, match.group(), "is not how the order was paid")
