"""The names that rows are made of: each is turned into bytes once, and keeps its place from batch to batch.

What belongs here: places of names, and which account of the ledger a party and an asset are.
What does not: trades (see `settlement_arrays`), and asking the database (see `settlement`).

A place is never given up, and what stands before it never moves, so arrays that were taken from here stay right.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.canonical import row_bytes
from engine.exchange.state import Registry
from engine.ledger.journal import FEE_CLEARING

Array = npt.NDArray[Any]
Pair = tuple[str, str]
_FIRST = ("buy", "sell", "trade", "engine", "fill")
"""At the places that kernels know; the actor and fee clearing follow."""


class Names:
    """Names by place.

    Args:
        actor: who posts, as journals record it.

    Attributes:
        lock: held by who adds names: batches may be made ready in two threads.
        texts: the names, one after the other (uint8).
        ends: where each ends, with a zero before the first (int64).
    """

    def __init__(self, actor: str) -> None:
        self.lock = Lock()
        self.texts: Array = np.zeros(0, np.uint8)
        self.ends: Array = np.zeros(1, np.int64)
        self._count = 0
        self._places: dict[tuple[str, int], int] = {}
        self._numbers: Array = np.zeros(0, np.int64)
        self._at: Array = np.zeros(0, np.int64)
        self._columns: Array = np.zeros(0, np.int64)
        self._assets = 0
        self._ids: Array = np.zeros((0, 0), np.int64)
        self._add([*_FIRST, actor, FEE_CLEARING])

    @property
    def count(self) -> int:
        """How many names there are."""
        return self._count

    def at(self, places: Array) -> list[str]:
        """The names at places."""
        text = self.texts[: self.ends[self._count]].tobytes().decode("ascii")
        starts, ends = self.ends[places].tolist(), self.ends[places + 1].tolist()
        return [text[start:end] for start, end in zip(starts, ends, strict=True)]

    def longest(self, places: Array | None = None) -> int:
        """The length of the longest of some names, or of all."""
        lengths = np.diff(self.ends[: self._count + 1])
        return int((lengths if places is None else lengths[places]).max())

    def market(self, number: int, symbol: str) -> int:
        """The place of a market's name."""
        return self._place(("market", number), symbol)

    def asset(self, number: int, symbol: str) -> int:
        """The place of an asset's name."""
        before = self._count
        place = self._place(("asset", number), symbol)
        if place == before:
            self._columns = _grown(self._columns, self._count)
            self._columns[place] = self._assets
            self._assets += 1
        return place

    def accounts(self, numbers: Array, registry: Registry) -> Array:
        """The places of accounts' names.

        Args:
            numbers: of accounts, int64 of any shape.
            registry: their names.

        Raises:
            ValueError: a name that is not printable ASCII.
        """
        slots = np.searchsorted(self._numbers, numbers)
        missing = numbers[np.append(self._numbers, -1)[slots] != numbers]
        if len(missing):
            new = np.unique(missing)
            first = self._add([registry.accounts[number].name for number in new.tolist()])
            all_numbers = np.concatenate((self._numbers, new))
            places = np.concatenate((self._at, np.arange(first, first + len(new))))
            order = np.argsort(all_numbers)
            self._numbers, self._at = all_numbers[order], places[order]
            slots = np.searchsorted(self._numbers, numbers)
        return np.asarray(self._at[slots])

    def ids(self, parties: Array, assets: Array) -> Array:
        """The ledger's accounts of parties and assets (places of names); 0 where none is known."""
        if len(self._ids) <= parties.max(initial=0) or self._ids.shape[1] < self._assets:
            wider = np.zeros((2 * self._count, self._assets), np.int64)
            wider[: self._ids.shape[0], : self._ids.shape[1]] = self._ids
            self._ids = wider
        return np.asarray(self._ids[parties, self._columns[assets]])

    def learn(self, parties: Array, assets: Array, ids: Sequence[int]) -> None:
        """Remember the accounts of parties and assets that `ids` was asked for."""
        self._ids[parties, self._columns[assets]] = ids

    def forget(self) -> None:
        """Forget all accounts of the ledger."""
        self._ids[:] = 0

    def _place(self, key: tuple[str, int], name: str) -> int:
        if key not in self._places:
            self._places[key] = self._add([name])
        return self._places[key]

    def _add(self, names: list[str]) -> int:
        joined = "".join(names)
        if not (joined.isascii() and joined.isprintable()):
            row_bytes(names)  # which says which one
        first, start = self._count, int(self.ends[self._count])
        last = first + len(names)
        self.texts = _grown(self.texts, start + len(joined))
        self.ends = _grown(self.ends, last + 1)
        self.texts[start : start + len(joined)] = np.frombuffer(joined.encode("ascii"), np.uint8)
        self.ends[first + 1 : last + 1] = start + np.cumsum([len(name) for name in names])
        self._count = last
        return first


def _grown(array: Array, needed: int) -> Array:
    """The array, or a copy of it with room for more where it is too short."""
    if len(array) >= needed:
        return array
    grown = np.zeros(2 * needed, array.dtype)
    grown[: len(array)] = array
    return grown
