"""When the parcel comes: as the shop estimates it, in any of the languages, and not a day otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.words import NUMBER_WORD, NUMBER_WORDS, UNITS

_ANY_UNIT = "(?:" + "|".join(UNITS.values()) + ")"
_TO = r"(?: ?(?:-|/|to|bis(?: zu)?|a|al|e|y|and|et|und|ate|tot|en|ou|or|o|oder|of|until|through) ?)"
_FEW = (
    r"few|some|several|couple of|next|coming|einige[nr]?|wenige[nr]?|paar|nachsten|kommenden|quelques|prochains|prochaines|pocos|unos|algunos|proximos"
    r"|alcuni|pochi|prossimi|poucos|alguns|enkele|komende|volgende"
)
_DURATION = re.compile(
    rf"(?:\b\d+(?:{_TO}\d+)?|{NUMBER_WORD}(?:{_TO}{NUMBER_WORD})?|\b(?:{_FEW}))[ -]?(?:full |short )?{_ANY_UNIT}\b", re.IGNORECASE
)
_VAGUE = re.compile(
    r"\b(?:within|in|inside|innerhalb von|binnen|en|sous|dans les|em|entro|nel giro di) (?:just |mere |only |a matter of |cuestion de |questao de )?"
    r"(?:hours|minutes|days|weeks|stunden|minuten|tagen|wochen|heures|jours|semaines|horas|minutos|dias|semanas|ore|minuti|giorni|settimane|uren|dagen|weken)\b",
    re.IGNORECASE,
)
_SEASON = (
    r"(?:spring|summer|autumn|fall|winter|fruhling|fruhjahr|sommer|herbst|printemps|ete|automne|hiver|primavera|verano|otono|invierno|estate|autunno|inverno"
    r"|verao|outono|voorjaar|lente|zomer|herfst|najaar)"
)
_WHEN = (
    r"(?:next|this|coming|last|in|by|until|before|during|im|bis|zum|(?:nachste|diese|kommende)[nmrs]?|au|en|cet|ce|la|el|este|esta|proxim[oa]|prossim[oa]|quest[oa]|no|na|neste|nesta"
    r"|het|dit|deze|volgende?|komende?)"
)
_PAST = r"\b(?:yesterday|gestern|vorgestern|avant-hier|(?:livre|expedie|envoye|parti|arrive|remis)e?s? hier|ayer|anteayer|ieri|ontem|anteontem|gisteren|eergisteren)\b"
_HOLIDAYS = (
    r"\b(?:(?<!happy )holidays?|vacations?|(?:the|a) day (?:after|before)|feiertag\w*|ferien|les fetes|des fetes|vacances|las fiestas|vacaciones|le feste|delle feste|festivita|feriados?"
    r"|(?:as|das) festas|feestdag\w*|vakantie)\b"
)
_RELATIVE = (
    r"\b(?:tomorrow|tonight|overnight|(?:same|next)[- ](?:business )?day|(?:next|this|coming|last) (?:week|month|weekend)|weekend|"
    r"(?<!guten )(?<!schonen )morgen|ubermorgen|wochenende|nachste[rn]? woche|diese[rn]? woche|demain|apres-demain|semaine prochaine|week-end|"
    r"(?<!la )manana|fin de semana|proxima semana|semana que viene|domani|dopodomani|settimana prossima|prossima settimana|fine settimana|amanha|"
    r"semana que vem|overmorgen|volgende week|deze week|weekeinde|christmas|xmas|easter|new year|weihnacht\w*|heiligabend|ostern|silvester|noel|paques|navidad|"
    r"natale|natal|kerst\w*|pasen|(?:end|start|beginning) of (?:the|this|next) (?:day|week|month)|monatsende|wochenende|fin du mois|fine mese|fin de mes|fim do mes|einde? van de (?:week|maand)|by noon|before noon|midnight)\b"
)
_WEEKDAY = (
    r"\b(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?|(?:mon|diens|donners|frei|sams|sonn)tags?|mittwochs?|sonnabend|lundi|mardi|mercredi|jeudi|vendredi|samedi|"
    r"dimanche|lunes|martes|miercoles|jueves|viernes|sabado|domingo|lunedi|martedi|mercoledi|giovedi|venerdi|sabato|domenica|(?:segunda|terca|quarta|quinta|sexta)-feira|"
    r"maandag|dinsdag|woensdag|donderdag|vrijdag|zaterdag|zondag)\b"
)
_MONTH = (
    r"\b(?:january|february|april|june|july|august|september|october|november|december|januar|februar|juni|juli|oktober|dezember|janvier|fevrier|avril|juin|juillet|aout|"
    r"septembre|octobre|novembre|decembre|enero|febrero|abril|junio|julio|agosto|septiembre|octubre|noviembre|diciembre|gennaio|febbraio|aprile|giugno|luglio|settembre|"
    r"ottobre|dicembre|janeiro|fevereiro|junho|julho|setembro|outubro|novembro|dezembro|januari|februari|augustus)\b"
    r"|(?<=\d )(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|march|may|marz|maerz|mai|mars|marzo|mayo|maggio|marco|maio|maart|mei)\b"
    r"|\b(?:in|by|until|before|early|mid|late|im|bis|en|em|a|ende|anfang|mitte|end of|start of|fin|debut|fine|inizio|fim de|eind|begin|de) (?:March|May|Marz|Mai|Mars|Marzo|Mayo|Maggio|Marco|Maio|Maart|Mei)\b|\bMarch \d"
)
_TODAY = re.compile(
    r"\b(?:today|heute|aujourd'hui|hoy|oggi|hoje|vandaag|immediately|at once|sofort|immediatement|inmediatamente|subito|imediatamente|onmiddellijk)\b",
    re.IGNORECASE,
)
_MOVED = re.compile(
    r"\b(?:ship|deliver|arriv|sen[dt]|leav|dispatch|reach|with you|versand|versend|verschick|liefer|zugestell|ankomm|exped|livr|arriv|envi|entreg|lleg|sped|consegn|cheg|verzond|verzend|"
    r"bezorg|lever|handed|receiv|pick)\w*",
    re.IGNORECASE,
)
_SPAN = re.compile(r"^(?:(?:within|in|about|approx\.?|ca\.?|between) )*(\d+)(?: ?(?:-|to|and) ?(\d+))? (.+)$", re.IGNORECASE)
_DATES = (_RELATIVE, _WEEKDAY, _MONTH, rf"\b{_WHEN} (?:the )?{_SEASON}\b|\bl'(?:ete|automne|hiver)\b", _PAST, _HOLIDAYS)
TIME = re.compile("|".join((_DURATION.pattern, _VAGUE.pattern, *_DATES)), re.IGNORECASE)


def estimate_pattern(estimate: str) -> str:
    """Where a text says the estimate (spelled as `normal` leaves it): word for word, or the same numbers and unit in another language."""
    here = rf"(?<![\w-]){re.escape(estimate)}(?![\w-])" if estimate else r"(?!)"
    match = _SPAN.match(estimate)
    unit = match and next((unit for unit, words in UNITS.items() if re.fullmatch(words, match[3], re.IGNORECASE)), None)
    if not match or not unit:
        return here
    words = UNITS[unit] + ("" if unit != "day" else r"(?! (?:ouvr|labor|habil|ut|lavor|feri))")
    if not match[2]:
        return rf"{here}|(?<![\d,+-] )(?<![\w.,+-]){_said(match[1])}[ -]{words}\b"
    return rf"{here}|(?<![\d,+-] )(?<![\w.,+-]){_said(match[1])}{_TO}{_said(match[2])}[ -]{words}\b"


def _said(number: str) -> str:
    words = [word for word, value in NUMBER_WORDS.items() if value == int(number) and value > 1]
    return "(?:" + "|".join([number, *words]) + ")"


def other_times(text: str) -> Iterator[Finding]:
    """Every date and duration of the writer's own words; the estimate is a sign by now."""
    for match in (*_DURATION.finditer(text), *_VAGUE.finditer(text)):
        yield Finding(Kind.DELIVERY, match.group(), "is not our delivery estimate")
    for pattern in _DATES:
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield Finding(Kind.DATE, match.group(), "is a date, and none is known")
    for sentence in re.split(r"[.!?\n]", text):
        today = _TODAY.search(sentence)
        if today and _MOVED.search(sentence):
            yield Finding(Kind.DATE, today.group(), "is a date, and none is known")
