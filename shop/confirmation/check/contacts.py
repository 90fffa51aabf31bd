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
_OUR_PAGE = r"(?:web ?sites?|sites?|web ?pages?|home ?page|page|apps?|portal|blog|online shop|web ?shop)"
_PAGE = (
    rf"\b(?:visit|see|check(?: out)?|browse|open|download|use|go to|log ?in(?: to)?|sign in(?: to)?|via|through|(?<!shopping )(?<!ordering )(?<!purchase )(?:on|at)) (?:our|the) {_OUR_PAGE}\b"
    r"|\b(?:visit us|find us|follow us|(?:besuchen|folgen) sie uns|suivez-nous|siguenos|seguici|siga-nos|volg ons|instagram|facebook|tiktok|youtube|twitter|linkedin)\b"
    r"|\b(?:besuch\w*(?: sie)?|auf|uber|visite[rz]?|consultez|sur|visit[ae]|en|consult[ae]|visiti|sul|no|acesse|bezoek|op|via) (?:unsere[rn]?|notre|nuestr[oa]|il nostro|nostro|noss[oa]|onze)"
    r" (?:web ?site|web ?seite|internetseite|seite|site(?: web| internet)?|sitio(?: web)?|pagina(?: web)?|web|sito(?: web)?|app|webshop)\b"
)
_CALL = (
    r"\b(?:call|phone|ring) (?:you|us|ahead)\b|\b(?:give|giving) (?:us|you) a (?:call|ring)\b|\b(?:by|on (?:your|the)|over the|our) (?:tele)?phone\b|\btelephone\b|\btelefon\w*|\btelephon\w+"
    r"|\brufen (?:sie|wir)\b|\bwir rufen\b|\banruf\w*|\bappel(?:ez|ons|er|erons|lerons|lera)\b|\bllam(?:e|ar\w*|amos|anos|enos|adas?)\b|\bchiam(?:i|ate|are|eremo|eremmo|iamo|ateci|ata)\b"
    r"|\b(?:vamos ligar|ligaremos|ligue)\b|\b(?:bel|bellen|belt) (?:ons|je|u)\b|\b(?:we|wij) bellen\b"
)
_PHONE = (
    r"\+ ?\d[\d ()./-]{5,}|\(?\b0?\d{2,4}\)?[ ./-]\d{2,4}[ ./-]\d{2,}[\d ./-]*|\b\d{3}[ .-]\d{4}\b|\b0\d{2,}[ /-]?\d{4,}"
    rf"|(?:{NUMBER_WORD}[ -]){{5,}}|\b(?:(?:text|sms) (?-i:[A-Z]{{3,}})|our number|unsere nummer|notre numero|nuestro numero|nostro numero|nosso numero|ons nummer|sms|whatsapp|telegram|signal messenger|hotline|toll-free|wechat)\b"
)
_AS_MONEY = re.compile(r"\d{1,3}(?:[ ,.']\d{3})+(?:[.,]\d{2})?")
CONTACT = re.compile(rf"{_E_MAIL}|{_LINK}|{_PAGE}|{_PHONE}|{_CALL}", re.IGNORECASE)


def contacts(text: str) -> Iterator[Finding]:
    """Of the writer's own words; the shop's addresses are signs by now."""
    for pattern, kind in ((_E_MAIL, Kind.E_MAIL), (f"{_LINK}|{_PAGE}", Kind.LINK), (f"{_PHONE}|{_CALL}", Kind.PHONE)):
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if kind is Kind.PHONE and _AS_MONEY.fullmatch(match.group().strip()):
                continue
            yield Finding(kind, match.group(), "is not the shop's")
