"""The tracking number is in the mail itself, below the texts: no text may say that it comes later, or in another message."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind

_NUMBER = re.compile(
    r"\btracking|\btrack[- ](?:and|&)[- ]trace|sendungsnummer|sendungsverfolgung|trackingnummer|paketnummer|\bsuivi\b"
    r"|\bnumero de (?:seguimiento|rastreo|rastreio|seguimento|guia)|\bcodigo de (?:seguimiento|rastreo|rastreio|rastreamento)"
    r"|\b(?:numero|codice) di (?:tracciamento|spedizione)|\bvolgnummer",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"\b(?:follows?|following|will|shall|going to|once|when|whenever|after|as soon as|soon|shortly|later|separate(?:ly)?|sen[dt]|sending"
    r"|receiv\w*|gets?|comes?|coming|arriv\w*|'ll|await\w*|text message"
    r"|folgt|folgen|sobald|wenn|nachdem|spater|separat\w*|erhalten|erhaltst|bekomm\w*|schick\w*|send(?:en|et)|kommt|demnachst|bald|mit dem versand"
    r"|suivra\w*|sera|serez|recevr\w*|enverr\w*|envoye\w*|communiquerons|des que|lorsque|lors de|quand|bientot|apres|arrivera"
    r"|enviar\w*|recibir\w*|llegar\w*|junto con|cuando|una vez|en cuanto|pronto|despues|luego|tan pronto"
    r"|arriver\w*|ricever\w*|invier\w*|segue|seguira|appena|quando|presto|dopo|con la spedizione"
    r"|receb\w*|assim que|logo que|em breve|depois|com o envio|seguira"
    r"|volgt|volgen|ontvang\w*|krijg\w*|stuur\w*|sturen|zodra|wanneer|binnenkort|later|bij de verzending)\b",
    re.IGNORECASE,
)
_HERE = re.compile(
    r"\b(?:below|here|in this (?:e-?mail|mail|message)|under this|unten|hier|nachfolgend|untenstehend\w*|in dieser (?:e-?mail|mail|nachricht)"
    r"|ci-dessous|ici|plus bas|dans (?:cet|ce) (?:e-?mail|mail|message|courriel)|abajo|aqui|a continuacion|en este (?:e-?mail|correo|mensaje)"
    r"|qui|sotto|di seguito|in questa (?:e-?mail|mail)|in questo messaggio|abaixo|a seguir|nesta mensagem|neste (?:e-?mail|email)"
    r"|hieronder|onderaan|in deze (?:e-?mail|mail)|in dit bericht)\b",
    re.IGNORECASE,
)


def later_tracking(text: str) -> Iterator[Finding]:
    """Sentences that put the tracking number off to another time or message."""
    for sentence in re.split(r"[.!?;\n]", text):
        later = _LATER.search(sentence)
        if later and _NUMBER.search(sentence) and not _HERE.search(sentence):
            yield Finding(Kind.PROMISE, later.group().lower(), "puts off the tracking number, which is in this mail")
