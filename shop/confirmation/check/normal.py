"""One spelling for what reads the same, so that what is looked for is found however it is written.

Accents, invisible characters and kinds of dashes, quotes and digits are unified, letters of other scripts that look like
Latin ones become those. For comparing, never for showing. Text and facts go through the same function.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_LOOK_ALIKES = {
    **dict(zip("абвгеіјкмнопрѕстухԁһԛԝԍӏ", "a6breijkmhonpsctyxdhqwgl", strict=True)),
    **dict(zip("АВЕІЈКМНОРЅСТУХԌ", "ABEIJKMHOPSCTYXG", strict=True)),
    **dict(zip("αβγεηικνορτυχω", "abyenikvoptuxw", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    **dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɡɑɩıօսոƒ", "abcdefghijklmnoprstuvwyzgaiiounf", strict=True)),
}
_SAME = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−﹣－˗", "-"),
        **dict.fromkeys("‘’‚‛ʼ′`´ʹ＇", "'"),
        **dict.fromkeys("“”„‟«»″＂", '"'),
        **dict.fromkeys("×✕✖⨯╳", "x"),
        **dict.fromkeys("•·‣▪●◦∙", "-"),
        **dict.fromkeys("⁄∕", "/"),
        "ß": "ss",
        "æ": "ae",
        "Æ": "AE",
        "œ": "oe",
        "Œ": "OE",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "Đ": "D",
        "ð": "d",
        "þ": "th",
        "。": ".",
        "、": ",",
    }
)
_EMPHASIS = re.compile(r"\*\*|__|(?<![\w*])[*_](?=[^\W_])|(?<=[\w.!?:])[*_](?![\w*])")
_DROPPED = frozenset({"Mn", "Me", "Cf", "Co", "Cs", "Cc"})
_HANGUL_FILLERS = "ᅟᅠㅤ"


def readable(text: str) -> str:
    """The text with its lines, in one spelling; letters keep their script. `looks` has the same length."""
    lines = [_line(line) for line in text.splitlines()]
    return "\n".join(lines)


def looks(text: str) -> str:
    """A `readable` text with each letter as the Latin one that it looks like."""
    return text if text.isascii() else "".join(_LOOK_ALIKES.get(letter, letter) for letter in text)


def normal(text: str) -> str:
    """Both, for facts: in one line."""
    return " ".join(looks(readable(text)).split())


@lru_cache(maxsize=4096)
def is_foreign(letter: str) -> bool:
    """Whether it is a letter of another script than the Latin one."""
    return letter.isalpha() and not unicodedata.name(letter, "").startswith("LATIN")


def _line(line: str) -> str:
    if not line.isascii():
        spread = unicodedata.normalize("NFKD", line.translate(_SAME))
        line = "".join(_one(letter) for letter in spread).translate(_SAME)
    else:
        line = "".join(letter for letter in line if letter >= " " or letter == "\t").translate(_SAME)
    return " ".join(_EMPHASIS.sub("", line).split())


def _one(letter: str) -> str:
    if letter.isascii():
        return letter if letter >= " " or letter == "\t" else ""
    if letter in _HANGUL_FILLERS or unicodedata.category(letter) in _DROPPED:
        return ""
    digit = unicodedata.decimal(letter, None)
    return letter if digit is None else str(digit)
