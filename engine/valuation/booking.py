"""Many positions booked at once: the kernel over arrays, by bucket of positions, plain Python for what does not fit.

What belongs here: the arrays in and out, and running the kernel over them. What does not: the loop itself (see
`kernels.lots`), and where events come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.valuation import exact
from engine.valuation.kernels.lots import DONE, OVERFLOW, OVERSOLD, book_lots
from engine.valuation.method import Method

Array = npt.NDArray[Any]
_WORD = 2**64


@dataclass(slots=True)
class Flows:
    """Events of positions, position by position, in order, and the lots that they begin with.

    Attributes:
        event_from: where the events of a position begin, int64[positions + 1].
        incoming: whether an event acquires, bool[events].
        quantity: uint64[events, 2], low word first, below 2^127.
        value: what an acquisition costs or a disposal brings, alike.
        ranked: what an acquisition costs without fees, which HIFO and LOFO go by, alike.
        opening_from: where the opening lots of a position begin, int64[positions + 1].
        opening: quantity, cost, acquired quantity, acquired cost; each uint64[lots, 2].
    """

    event_from: Array
    incoming: Array
    quantity: Array
    value: Array
    ranked: Array
    opening_from: Array
    opening: tuple[Array, Array, Array, Array]


@dataclass(slots=True)
class Fragments:
    """Parts of disposals, each from one lot, in order of disposal within a position."""

    event: Array
    origin: Array
    quantity: Array
    cost: Array


@dataclass(slots=True)
class Booked:
    """What became of positions.

    Attributes:
        cost: of each disposal, uint64[events, 2].
        lot_from: where the lots of a position lie, int64[positions + 1].
        lot_count: how many slots are in use there; those with quantity 0 are used up.
        lots: quantity, cost, acquired quantity, acquired cost; each uint64[slots, 2].
        origin: of each slot: -1 - n for opening lot n, else the event that acquired it.
        oversold: (position, event) of the first disposal of more than is held, for each position that has one.
        beyond: positions with amounts of 2^127 or more, booked in plain Python, and the cost of their events.
        fragments: where they were asked for.
    """

    cost: Array
    lot_from: Array
    lot_count: Array
    lots: tuple[Array, Array, Array, Array]
    origin: Array
    oversold: list[tuple[int, int]]
    beyond: dict[int, tuple[exact.Position, list[int]]] = field(default_factory=dict)
    fragments: Fragments | None = None

    def live(self) -> Array:
        """Slots that hold something, position by position in order of acquisition."""
        counts = self.lot_count
        slots = np.repeat(self.lot_from[:-1] - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
        slots += np.arange(int(counts.sum()), dtype=np.int64)
        held: Array = slots[(self.lots[0][slots] != 0).any(axis=1)]
        return held


def amounts(values: Sequence[int]) -> Array:
    """Integers below 2^128 as an array of words."""
    out = np.empty((len(values), 2), np.uint64)
    out[:, 0] = [v % _WORD for v in values]
    out[:, 1] = [v // _WORD for v in values]
    return out


def integers(words: Array) -> list[int]:
    """An array of words as integers."""
    return [low + high * _WORD for low, high in zip(words[:, 0].tolist(), words[:, 1].tolist(), strict=True)]


def book(method: Method, flows: Flows, *, fragments: bool = False, threads: int = 1) -> Booked:
    """Book every position.

    Args:
        method: which lot goes first.
        flows: the events and opening lots; not changed.
        fragments: whether to tell which lot each part of a disposal came from.
        threads: how many buckets of positions are booked at once.
    """
    positions = len(flows.event_from) - 1
    events = len(flows.incoming)
    acquired = np.concatenate(([0], np.cumsum(flows.incoming, dtype=np.int64)))
    had = np.diff(flows.opening_from)
    room = had + np.diff(acquired[flows.event_from])
    lot_from = np.concatenate(([0], np.cumsum(room))).astype(np.int64)
    slots = int(lot_from[-1])
    where = np.repeat(lot_from[:-1] - flows.opening_from[:-1], had) + np.arange(int(had.sum()), dtype=np.int64)
    lots = tuple(np.zeros((slots, 2), np.uint64) for _ in range(4))
    for to, given in zip(lots, flows.opening, strict=True):
        to[where] = given
    origin = np.zeros(slots, np.int64)
    origin[where] = -1 - np.arange(len(where), dtype=np.int64)
    fragment_from = flows.event_from + lot_from
    parts = int(fragment_from[-1]) if fragments else 0
    told = Fragments(
        np.zeros(parts, np.int64),
        np.zeros(parts, np.int64),
        np.zeros((parts, 2), np.uint64),
        np.zeros((parts, 2), np.uint64),
    )
    done = Booked(np.zeros((events, 2), np.uint64), lot_from, had.astype(np.int64), lots, origin, [])  # type: ignore[arg-type]
    fragment_count, status, fault = (np.zeros(positions, np.int64) for _ in range(3))
    heap = np.zeros(slots if method in (Method.HIFO, Method.LOFO) else 0, np.int64)

    def run(first: int, last: int) -> None:
        book_lots(
            method.number, first, last, flows.event_from, flows.incoming, flows.quantity, flows.value, flows.ranked,
            lot_from, done.lot_count, done.lots[0], done.lots[1], done.lots[2], done.lots[3], origin, heap, done.cost,
            fragment_from, fragment_count, told.event, told.origin, told.quantity, told.cost, status, fault,
        )  # fmt: skip

    edges = np.searchsorted(flows.event_from, np.linspace(0, events, threads + 1))
    edges[0], edges[-1] = 0, positions
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, edges[:-1].tolist(), edges[1:].tolist()))
    else:
        run(0, positions)
    if fragments:
        done.fragments = _packed(told, fragment_from, fragment_count)
    for g in np.flatnonzero(status != DONE).tolist():
        if status[g] == OVERSOLD:
            done.oversold.append((g, int(fault[g])))
        elif status[g] == OVERFLOW:
            _beyond(method, flows, g, done)
    done.oversold.sort()
    return done


def _packed(told: Fragments, start: Array, count: Array) -> Fragments:
    """Fragments without the room that was left for more."""
    kept = np.repeat(start[:-1] - np.concatenate(([0], np.cumsum(count)[:-1])), count)
    kept = kept + np.arange(int(count.sum()), dtype=np.int64)
    return Fragments(told.event[kept], told.origin[kept], told.quantity[kept], told.cost[kept])


def _beyond(method: Method, flows: Flows, g: int, done: Booked) -> None:
    """Book a position in plain Python, whose amounts the kernel refused; its slots are emptied."""
    first, last = int(flows.event_from[g]), int(flows.event_from[g + 1])
    low, high = int(flows.opening_from[g]), int(flows.opening_from[g + 1])
    columns = zip(*(integers(column[low:high]) for column in flows.opening), strict=True)
    opening = [exact.Lot(-1 - low - n, *values) for n, values in enumerate(columns)]
    events = list(
        zip(
            range(first, last),
            flows.incoming[first:last].tolist(),
            integers(flows.quantity[first:last]),
            integers(flows.value[first:last]),
            integers(flows.ranked[first:last]),
            strict=True,
        )
    )
    position, costs, oversold = exact.book(method, opening, events)
    done.lot_count[g] = 0
    if oversold is not None:
        done.oversold.append((g, oversold))
    done.beyond[g] = (position, costs)
