"""Names as they are compared: one writing of a name for all its spellings in case, accents, marks and order of words.

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
    """A name's letters and digits without marks and case, its words in alphabetic order, one blank between them.

    Compatibility decomposition (NFKD), marks dropped, case folded, apostrophes closed up (`O'Brien` is `obrien`),
    anything else that is no letter or digit a blank. Empty where nothing is left.
    """
    if name.isascii():
        return " ".join(sorted(name.translate(_ASCII).split()))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    bare = "".join(c for c in plain.translate(_APOSTROPHES) if not unicodedata.category(c).startswith("M"))
    return " ".join(sorted(_NOT_LETTERS.sub(" ", bare).split()))
