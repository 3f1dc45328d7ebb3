"""Names as they are compared: one writing of a name for all its spellings in case, accents and marks.

What belongs here: that writing. What does not: comparing (see `matcher`). Nothing is transliterated: a name in another
script equals entries in that script, which lists carry as aliases of their own.
"""

from __future__ import annotations

import re
import unicodedata

LOWEST, HIGHEST = 70, 100
"""Thresholds of a match, per cent: below 70 the segments of a name would be empty, and a hit would mean nothing."""
_APOSTROPHES = dict.fromkeys(map(ord, "'’‘`´ʼʹʻ"))
_NOT_LETTERS = re.compile(r"[\W_]+")
_ASCII = {
    **{code: " " for code in range(128) if not chr(code).isalnum()},
    **{ord(c): None for c in "'`"},
    **{code: chr(code).lower() for code in range(ord("A"), ord("Z") + 1)},
}


def normal(name: str) -> str:
    """A name's letters and digits without marks and case, one blank between its words.

    Compatibility decomposition (NFKD), marks dropped, case folded, apostrophes closed up (`O'Brien` is `obrien`),
    anything else that is no letter or digit a blank. Empty where nothing is left.
    """
    if name.isascii():
        return " ".join(name.translate(_ASCII).split())
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    bare = "".join(c for c in plain.translate(_APOSTROPHES) if not unicodedata.category(c).startswith("M"))
    return " ".join(_NOT_LETTERS.sub(" ", bare).split())


def in_order(name: str) -> str:
    """A normal name with its words in alphabetic order."""
    return " ".join(sorted(name.split(" "))) if " " in name else name


def turned(name: str) -> list[str]:
    """A normal name as it stands, and with its first words put last (`lee ann marie`, `ann marie lee`, …).

    Names of more than four words are those of companies, whose words have their order.
    """
    words = name.split()
    if len(words) > 4:
        return [name]
    return list(dict.fromkeys(" ".join(words[n:] + words[:n]) for n in range(len(words))))
