"""Comparing names with the entries of a list: all pairs that match, and each pair's score.

What belongs here: what a match is, and finding all of them without comparing everything with everything.
What does not: how a name is written for it (see `names`), and what follows from a match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import rapidfuzz
from rapidfuzz import fuzz

from engine.errors import ConfigError
from engine.screening import kernels
from engine.screening.kernels import LONGEST, Array
from engine.screening.names import HIGHEST, LOWEST, in_order, turned

VERSION = f"names/1 rapidfuzz-{rapidfuzz.__version__}"
"""What decided on a match; another one compares everybody anew."""
_ROOM = 1 << 20


@dataclass(frozen=True, slots=True)
class Match:
    """A name that matches an entry.

    Attributes:
        name: its number in the names compared.
        entry: its number in the entries.
        score: whole per cent, rounded down.
    """

    name: int
    entry: int
    score: int


def score(name: str, entry: str) -> float:
    """How alike a normal name and a normal entry are, per cent.

    The highest of three: the ratio of characters in common with the words of both in alphabetic order (rapidfuzz
    `token_sort_ratio`); that ratio of the name as it stands and the entry turned, since another first letter changes
    the alphabetic order (`Katherine Johnson`, `JOHNSON, Catherine`); and, where they have two words in common,
    `token_set_ratio`: a middle name left out is none too many. One word in common is too little for that: every Maria
    would be every other.
    """
    best = max(fuzz.ratio(in_order(name), in_order(entry)), *(fuzz.ratio(name, one) for one in turned(entry)))
    if len(set(name.split()) & set(entry.split())) < 2:
        return best
    return max(best, fuzz.token_set_ratio(name, entry))


class NameIndex:
    """Entries of a list, ready to find the names that match one of them at a threshold.

    Args:
        entries: normal names, none empty.
        threshold: whole per cent.

    Raises:
        ConfigError: the threshold is none.
    """

    def __init__(self, entries: Sequence[str], threshold: int) -> None:
        if not LOWEST <= threshold <= HIGHEST:
            raise ConfigError(
                f"a threshold of {threshold} per cent cannot be used",
                rule=f"{LOWEST} to {HIGHEST}",
                next_step="correct screening_threshold in the policy",
            )
        self.entries = list(entries)
        self.threshold = threshold
        self._ordered = _Texts([in_order(entry) for entry in self.entries], threshold, pairs=True)
        turns = [(text, number) for number, entry in enumerate(self.entries) for text in turned(entry)]
        self._turned = _Texts([text for text, _ in turns], threshold, pairs=False)
        self._turned_of = np.array([number for _, number in turns], np.int64)

    @property
    def compared(self) -> int:
        """Pairs of texts looked at so far, of all that there are."""
        return self._ordered.compared + self._turned.compared

    def matches(self, names: Sequence[str]) -> list[Match]:
        """Every pair of a name and an entry whose score reaches the threshold.

        Args:
            names: normal ones; an empty one matches nothing.
        """
        if not self.entries or not names:
            return []
        by_turn = self._turned.candidates(names)
        by_turn[:, 1] = self._turned_of[by_turn[:, 1]]
        pairs = np.concatenate([self._ordered.candidates([in_order(name) for name in names]), by_turn])
        found = []
        for n, e in np.unique(pairs, axis=0).tolist():
            exact = score(names[n], self.entries[e])
            if exact >= self.threshold:
                found.append(Match(n, e, int(exact)))
        return found


class _Texts:
    """Texts of entries with their segments, and pairs of their words, in a table.

    Args:
        texts: none empty.
        threshold: whole per cent.
        pairs: whether pairs of words count; the words are in alphabetic order then.
    """

    def __init__(self, texts: Sequence[str], threshold: int, *, pairs: bool) -> None:
        self._texts = texts
        self._pairs = pairs
        chars, starts = _encoded(texts)
        powers = kernels.powers_of_base()
        none = np.empty(0, np.int64)
        how_many = kernels.keys_of(chars, starts, threshold, pairs, powers, none.view(np.uint64), none, False)
        keys, owners = np.empty(how_many, np.uint64), np.empty(how_many, np.int64)
        kernels.keys_of(chars, starts, threshold, pairs, powers, keys, owners, True)
        order = np.argsort(keys, kind="stable")
        unique, first = np.unique(keys[order], return_index=True)
        spans = np.append(first, how_many).astype(np.int64)
        table = np.zeros(1 << max(4, int(2 * unique.size).bit_length()), np.int64)
        kernels.fill_table(unique, table)
        sieve = np.zeros(1 << max(0, int(how_many // 8).bit_length()), np.uint64)
        kernels.fill_sieve(unique, sieve)
        signatures = np.empty(len(texts), np.uint64)
        kernels.sign(chars, starts, signatures)
        lengths = np.zeros(LONGEST + 1, np.bool_)
        lengths[[len(text) for text in texts if len(text) <= LONGEST]] = True
        self._index = (
            chars,
            starts,
            threshold,
            powers,
            unique,
            spans,
            owners[order],
            table,
            lengths,
            sieve,
            signatures[owners[order]],
        )
        self._long = [n for n, text in enumerate(texts) if len(text) > LONGEST]
        self.compared = 0

    def candidates(self, names: Sequence[str]) -> Array:
        """Pairs of a name and a text that can match: all that do, and some more."""
        chars, starts = _encoded(names)
        seen = np.full((2, len(self._texts)), -1, np.int32)
        out = np.empty((max(_ROOM, 4 * len(self._texts)), 2), np.int64)
        parts = []
        at = 0
        while at < len(names):
            at, count, compared = kernels.candidates(chars, starts, at, self._pairs, self._index, seen, out)
            self.compared += compared
            parts.append(out[:count].copy())
        too_long = [(n, e) for n, name in enumerate(names) if len(name) > LONGEST for e in range(len(self._texts))]
        too_long += [(n, e) for e in self._long for n, name in enumerate(names) if name]
        parts.append(np.array(too_long, np.int64).reshape(-1, 2))
        return np.concatenate(parts)


def _encoded(names: Sequence[str]) -> tuple[Array, Array]:
    """Code points of all names one after the other, and where each begins."""
    chars = np.frombuffer("".join(names).encode("utf-32-le"), np.uint32)
    return chars, np.fromiter(accumulate(map(len, names), initial=0), np.int64, len(names) + 1)
