"""What the countries that most parcels go to are called, in the languages of the texts. Others stay as their code."""

from __future__ import annotations

_NAMES = {
    "US": "US|USA|U.S.|U.S.A.|United States of America|United States|Vereinigte Staaten|Etats-Unis|Estados Unidos|Stati Uniti|Verenigde Staten",
    "GB": "GB|UK|U.K.|United Kingdom|Great Britain|England|Grossbritannien|Vereinigtes Konigreich|Royaume-Uni|Reino Unido|Regno Unito|Verenigd Koninkrijk",
    "DE": "DE|Germany|Deutschland|Allemagne|Alemania|Germania|Alemanha|Duitsland",
    "FR": "FR|France|Frankreich|Francia|Franca|Frankrijk",
    "ES": "ES|Spain|Spanien|Espagne|Espana|Spagna|Espanha|Spanje",
    "IT": "IT|Italy|Italien|Italie|Italia",
    "PT": "PT|Portugal|Portogallo",
    "BR": "BR|Brazil|Brasilien|Bresil|Brasil|Brasile|Brazilie",
    "NL": "NL|Netherlands|Niederlande|Niederlanden|Pays-Bas|Paises Bajos|Paesi Bassi|Paises Baixos|Nederland",
    "BE": "BE|Belgium|Belgien|Belgique|Belgica|Belgio|Belgie",
    "CH": "CH|Switzerland|Schweiz|Suisse|Suiza|Svizzera|Suica|Zwitserland",
    "AT": "AT|Austria|Osterreich|Autriche|Oostenrijk",
    "CA": "CA|Canada|Kanada",
    "MX": "MX|Mexico|Mexiko|Mexique|Messico",
    "JP": "JP|Japan|Japon|Giappone|Japao",
    "IN": "IN|India|Indien|Inde",
    "AU": "AU|Australia|Australien|Australie",
    "IE": "IE|Ireland|Irland|Irlande|Irlanda|Ierland",
}


def country_names(code: str) -> list[str]:
    """How the country may be called, its code included; spelled as `normal` leaves them."""
    return _NAMES[code.upper()].split("|") if code.upper() in _NAMES else [code]
