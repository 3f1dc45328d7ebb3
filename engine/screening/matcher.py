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
from rapidfuzz import fuzz, process

from engine.errors import ConfigError
from engine.screening import kernels
from engine.screening.kernels import LONGEST, Array
from engine.screening.names import HIGHEST, LOWEST

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


def score(one: str, other: str) -> float:
    """How alike two normal names are, per cent.

    The ratio of their characters in common (rapidfuzz `token_sort_ratio`; the words are in order already), or, where
    they have two words in common, that of what they have besides (`token_set_ratio`), so that a middle name left out is
    none too many. One word in common is too little for that: every Maria would be every other.
    """
    plain = fuzz.ratio(one, other)
    if len(set(one.split()) & set(other.split())) < 2:
        return plain
    return max(plain, fuzz.token_set_ratio(one, other))


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
        self._chars, self._starts = _encoded(self.entries)
        self._long = [n for n, name in enumerate(self.entries) if len(name) > LONGEST]
        self._powers = kernels.powers_of_base()
        none = np.empty(0, np.int64)
        how_many = kernels.keys_of(
            self._chars, self._starts, threshold, self._powers, none.view(np.uint64), none, False
        )
        keys, owners = np.empty(how_many, np.uint64), np.empty(how_many, np.int64)
        kernels.keys_of(self._chars, self._starts, threshold, self._powers, keys, owners, True)
        order = np.argsort(keys, kind="stable")
        self._unique, first = np.unique(keys[order], return_index=True)
        self._spans = np.append(first, how_many).astype(np.int64)
        self._owners = owners[order]
        self._table = np.zeros(1 << max(4, int(2 * self._unique.size).bit_length()), np.int64)
        kernels.fill_table(self._unique, self._table)
        self._lengths = np.zeros(LONGEST + 1, np.bool_)
        self._lengths[[length for length in map(len, self.entries) if length <= LONGEST]] = True
        self.compared = 0
        """Pairs looked at so far, of all that there are."""

    def matches(self, names: Sequence[str]) -> list[Match]:
        """Every pair of a name and an entry whose score reaches the threshold.

        Args:
            names: normal ones; an empty one matches nothing.
        """
        pairs = self._candidates(names)
        if pairs.size == 0:
            return []
        found = []
        for at in range(0, len(pairs), _ROOM):
            found += self._scored(names, pairs[at : at + _ROOM])
        return found

    def _candidates(self, names: Sequence[str]) -> Array:
        """Pairs that can match, each once, in order."""
        chars, starts = _encoded(names)
        index = (
            self._chars,
            self._starts,
            self.threshold,
            self._powers,
            self._unique,
            self._spans,
            self._owners,
            self._table,
            self._lengths,
        )
        seen = np.full((2, len(self.entries)), -1, np.int64)
        out = np.empty((max(_ROOM, 4 * len(self.entries)), 2), np.int64)
        parts = []
        at = 0
        while at < len(names):
            at, count, compared = kernels.candidates(chars, starts, at, index, seen, out)
            self.compared += compared
            parts.append(out[:count].copy())
        too_long = [(n, e) for n, name in enumerate(names) if len(name) > LONGEST for e in range(len(self.entries))]
        too_long += [(n, e) for e in self._long for n, name in enumerate(names) if name]
        parts.append(np.array(too_long, np.int64).reshape(-1, 2))
        return np.unique(np.concatenate(parts), axis=0)

    def _scored(self, names: Sequence[str], pairs: Array) -> list[Match]:
        """Those of the pairs that match."""
        ones = [names[n] for n in pairs[:, 0]]
        others = [self.entries[n] for n in pairs[:, 1]]
        plain = process.cpdist(ones, others, scorer=fuzz.ratio, dtype=np.float64)
        by_words = process.cpdist(ones, others, scorer=fuzz.token_set_ratio, dtype=np.float64)
        found = []
        for n in np.flatnonzero(np.maximum(plain, by_words) >= self.threshold):
            exact = score(ones[n], others[n])
            if exact >= self.threshold:
                found.append(Match(int(pairs[n, 0]), int(pairs[n, 1]), int(exact)))
        return found


def _encoded(names: Sequence[str]) -> tuple[Array, Array]:
    """Code points of all names one after the other, and where each begins."""
    chars = np.frombuffer("".join(names).encode("utf-32-le"), np.uint32)
    return chars, np.fromiter(accumulate(map(len, names), initial=0), np.int64, len(names) + 1)
