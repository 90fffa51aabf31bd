"""Words of the languages that a text may be written in: English, German, French, Spanish, Italian, Portuguese, Dutch.

Spelled as `normal` leaves them: without accents.
"""

from __future__ import annotations

_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
null ein zwei drei vier funf sechs sieben acht neun zehn elf zwolf dreizehn vierzehn funfzehn sechzehn siebzehn achtzehn neunzehn zwanzig
zero un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf vingt
cero un dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciseis diecisiete dieciocho diecinueve veinte
zero un due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici diciassette diciotto diciannove venti
zero um dois tres quatro cinco seis sete oito nove dez onze doze treze quatorze quinze dezesseis dezessete dezoito dezenove vinte
nul een twee drie vier vijf zes zeven acht negen tien elf twaalf dertien veertien vijftien zestien zeventien achttien negentien twintig
"""
NUMBER_WORDS: dict[str, int] = {
    **{word: number for line in _NUMBERS.strip().splitlines() for number, word in enumerate(line.split())},
    **dict.fromkeys("a an eine einen einem einer eines une una uno uma".split(), 1),
    "zwo": 2,
    "duas": 2,
    "fuenf": 5,
    "zwoelf": 12,
    "fuenfzehn": 15,
    "dezasseis": 16,
    "dezassete": 17,
    "dezanove": 19,
    "beiden": 2,
    "couple": 2,
    "pair": 2,
    "dozen": 12,
    "dutzend": 12,
    "douzaine": 12,
    "docena": 12,
    "dozzina": 12,
    "duzia": 12,
    "dozijn": 12,
}
"""Also the indefinite articles, which are a one."""

OFTEN_SOMETHING_ELSE = frozenset(
    "zero null nul one a an ein eine einen einem einer eines un une una uno um uma een sei once onze neuf seize due ten otto dos elf acht sept "
    "beiden couple pair tre dix".split()
)
"""Number words that are also other words: "the amount due", "onze winkel". They count only beside what is counted."""

_BY_LENGTH = sorted(NUMBER_WORDS, key=len, reverse=True)
NUMBER_WORD = r"\b(?:" + "|".join(_BY_LENGTH) + r")\b"
COUNT = rf"(?:\d{{1,3}}(?:[.,' ]\d{{3}})+(?!\d)|\d+|{NUMBER_WORD})"
"""A whole number, in digits or words."""

AND = r"(?:and|und|et|y|e|en|plus|&|sowie|as well as|ainsi que|sans oublier)"

COUNTED = (
    r"(?:items?|articles?|products?|pieces?|units?|things?|goods|positions?|artikeln?|produkten?|produkte|positionen|teilen?|stuck|waren"
    r"|produits?|pieces?|articulos?|productos?|unidades|unidad|piezas?|articol[oi]|prodott[oi]|pezz[oi]|artigos?|produtos?|itens|item"
    r"|artikelen|producten|stuks?)"
)
"""What is counted in a summary of an order."""

UNITS: dict[str, str] = {
    "business day": (
        r"(?:(?:business|working|work)[- ]days?|(?:werk|arbeits|geschafts)tag(?:en?|s)?|jours? (?:ouvr\w+|de travail)|dias? (?:laborables?|habiles?|uteis|util)"
        r"|dia util|giorn[oi] (?:lavorativ|ferial)[oi]|werkdag(?:en)?)"
    ),
    "day": r"(?:(?:calendar )?days?|(?:kalender)?tag(?:en?|s)?|jours?|journees?|dias?|giorn[oi]|giornata|dag(?:en)?)",
    "hour": r"(?:hours?|hrs?|stunden?|heures?|horas?|or[ae]|uur|uren|h)",
    "minute": r"(?:minutes?|mins?|minuten?|minutos?|minut[oi]|minuut)",
    "week": r"(?:weeks?|wochen?|semaines?|semanas?|settiman[ae]|we(?:ek|ken))",
    "month": r"(?:months?|monat(?:en?)?|mois|mes(?:es)?|mes[ei]|maand(?:en)?)",
    "year": r"(?:years?|jahren?|jahre|ans?|annees?|anos?|ann[oi]|jaar|jaren)",
}
"""Units of time. A business day is looked for before a day."""

STOP_WORDS = frozenset(
    """
    the a an and or of to in on at for with by from is are be been was will we our us you your it its this that as have has once
    any if so here thank thanks der die das und oder ist sind wird werden wir unser unsere sie ihr ihre ihren ihrer ihnen es im zu
    zum zur mit von fur auf bei den dem ein eine danke le la les l d et ou de du des est sont sera nous notre nos vous votre vos
    il elle au aux en pour par avec sur dans un une ce cette merci el los las y o del son nosotros nuestro nuestra su sus usted te
    tu al para por con sobre lo se que gracias hemos si tienes alguna cualquier duda ya esta gli i e di della dello dei delle sono
    sara noi nostro nostra suo sua tuo tua ti per una che grazie abbiamo non os do da dos em no na nas foi ser seu seus voce com
    um uma obrigado obrigada nosso het een van zijn wordt worden wij ons onze u uw je jouw voor met op aan bij er dit dat dank
    bedankt
    """.split()
)
"""At least one of these stands in any sentence of these languages."""
