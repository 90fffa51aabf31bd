"""The order's number, as it is, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.signs import ORDER_ID

_NUMBERED = re.compile(
    r"\b(?:order|bestell(?:ung|nummer)?|bestellung|auftrag|commande|pedido|ordine|encomenda|bestelling|bestelnummer|ordernummer|invoice|rechnung|facture|factura|fattura|fatura|factuur"
    r"|tracking|sendung|suivi|seguimiento|tracciamento|rastreio|reference|reference|referenz|referencia|riferimento)"
    r"(?:s)?(?:-| )?(?:id|number|no\.?|nr\.?|n\.?|nummer|numero|code|ref\.?|#)?(?: is| ist| est| es| e| :)?[ :#]*(?-i:(#?[A-Z]{2,}[-_/][A-Z0-9][\w/-]*|#\w+))",
    re.IGNORECASE,
)
_HASH = re.compile(r"#\w+")


def order_numbers(text: str) -> Iterator[Finding]:
    """Numbers with digits in them are met as left over, too: this is for those of letters."""
    if ORDER_ID not in text:
        yield Finding(Kind.ORDER_NUMBER, "", "the order's number is missing")
    for match in (*_NUMBERED.finditer(text), *_HASH.finditer(text)):
        yield Finding(Kind.ORDER_NUMBER, match.group(), "is not this order's number")
