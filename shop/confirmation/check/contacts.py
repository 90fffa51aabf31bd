"""Links, e-mail addresses, phone numbers and other ways to somebody who is not us."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.words import NUMBER_WORD

_E_MAIL = r"\S*@\S*|\b[\w.-]+ ?[(\[{] ?at ?[)\]}] ?\w+|\b[\w.-]+ at [\w-]+ dot \w+"
_LINK = (
    r"\b[a-z][a-z0-9+.-]*://\S*|\bhxxps?\S*|\bwww\.\S*|\b(?:mailto|tel|sms|data|javascript):\S*|\]\(|<a\b|\bhref\b"
    r"|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}(?:/\S*)?\b|\b[\w-]+ ?[\[({] ?(?:\.|dot|punkt|point|punto) ?[\])}] ?\w+"
    r"|\b[\w-]+ dot (?:com|net|org|example|shop|info|de|fr|io)\b"
    r"|\b(?:click|tap|press|klicken sie|klick|tippen sie|tippe|drucken sie|cliquez|clique[rz]?|appuyez|haga clic|haz clic|pulse|pulsa|pinche|pincha|clicca|clicchi|prema|premi|tocca|toque|klik|tik|druk) (?:here|on|the (?:link|button)|hier|auf|ici|sur|aqui|en|qui|su|em|no|op)\b|\bqr[- ]code\b|\bbit\.ly\b"
)
_PHONE = (
    r"\+ ?\d[\d ()./-]{5,}|\(?\b0?\d{2,4}\)?[ ./-]\d{2,4}[ ./-]\d{2,}[\d ./-]*|\b\d{3}[ .-]\d{4}\b|\b0\d{2,}[ /-]?\d{4,}"
    rf"|(?:{NUMBER_WORD}[ -]){{5,}}|\b(?:(?:text|sms) (?-i:[A-Z]{{3,}})|our number|unsere nummer|notre numero|nuestro numero|nostro numero|nosso numero|ons nummer|sms|whatsapp|telegram|signal messenger|hotline|toll-free|wechat)\b"
)
_AS_MONEY = re.compile(r"\d{1,3}(?:[ ,.']\d{3})+(?:[.,]\d{2})?")
CONTACT = re.compile(rf"{_E_MAIL}|{_LINK}|{_PHONE}", re.IGNORECASE)


def contacts(text: str) -> Iterator[Finding]:
    """Of the writer's own words; the shop's addresses are signs by now."""
    for pattern, kind in ((_E_MAIL, Kind.E_MAIL), (_LINK, Kind.LINK), (_PHONE, Kind.PHONE)):
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if kind is Kind.PHONE and _AS_MONEY.fullmatch(match.group().strip()):
                continue
            yield Finding(kind, match.group(), "is not the shop's")
