"""A day of positions: its events are booked, and each position gets its lots and its row.

What belongs here: the order of a position's events, the lots that are left, and the sums of a position's row.
What does not: which events a trade has (see `events`), booking itself (see `booking`), and reading and writing Postgres
(see `engine.store.lots`).

Amounts are words of 128 bits as in `words`, in smallest units of their asset; values are in those of the reporting
currency, which is worth itself: its positions have no lots, their cost is their quantity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import GateError
from engine.valuation.booking import Booked, Flows, book, integers
from engine.valuation.events import (
    ACQUIRES,
    ADJUSTED_DOWN,
    ADJUSTED_UP,
    BOUGHT,
    DEPOSIT,
    FEE,
    KINDS,
    REBATE,
    REVERSED,
    REWARD,
    SOLD,
    WITHDRAWN,
    Events,
    Positions,
    Trades,
    Transfers,
    events_of,
)
from engine.valuation.kernels.copy_rows import add_up, place_in_order
from engine.valuation.method import Method
from engine.valuation.words import Array, minus, plus, total

GAIN_COLUMNS = (
    "bought, bought_value, sold, sold_value, fees, fees_value, deposited, deposited_value, withdrawn, withdrawn_value,"
    " rewarded, rewarded_value, adjusted, adjusted_value, proceeds, disposed_cost, realized, trading_pnl, quantity,"
    " cost"
)
IS_VALUE = np.array([False, True] * 7 + [True, True, True, True, False, True])


@dataclass(slots=True)
class Opening:
    """What the positions begin with.

    Attributes:
        quantity: of each position, uint64[positions, 2]. cost: alike.
        lot_position: place of the position of each lot, in order. lot_seq, lot_no, lot_day: of the acquisition.
        lots: acquired quantity and cost, quantity and cost; uint64[lots, 4, 2].
    """

    quantity: Array
    cost: Array
    lot_position: Array
    lot_seq: Array
    lot_no: Array
    lot_day: Array
    lots: Array


@dataclass(slots=True)
class BookedDay:
    """What a day left: lots of its positions, and one row of gains for each.

    Attributes:
        lot_keys: user, asset, lot_seq, lot_no, acquired_on; int64[lots, 5].
        lots: as in `Opening`.
        gains: the columns of GAIN_COLUMNS, two's complement, uint64[positions, columns, 2].
    """

    lot_keys: Array
    lots: Array
    gains: Array


def book_day(
    trades: Trades,
    transfers: Transfers,
    positions: Positions,
    opening: Opening,
    *,
    method: Method,
    fees_into_price: bool,
    currency: int,
    day: int,
    buckets: int = 4,
) -> BookedDay:
    """Book a day.

    Args:
        trades: its fills, with values.
        transfers: its other events, with values.
        positions: those that change.
        opening: what they begin with.
        method: which lot goes first.
        fees_into_price: whether fees are capitalised.
        currency: number of the reporting currency.
        day: close date in days since 2000, which acquisitions carry.
        buckets: how many ranges of positions are booked at once.

    Raises:
        GateError: a sequence does not increase, or a user disposes of more than he has; names user, asset and sequence.
    """
    _check_order(trades)
    parts = events_of(trades, transfers, positions, currency if fees_into_price else None)
    plain = positions.assets == currency
    currencies = [part.take(np.flatnonzero(plain[part.position])) for part in parts]
    coins = Events.joined([part.take(np.flatnonzero(~plain[part.position])) for part in parts])
    del parts
    # Runs that are in order already: a stable sort merges them.
    coins = coins.take(np.argsort(coins.when, kind="stable"))
    how_many = len(positions.users)
    starts = np.concatenate(([0], np.cumsum(np.bincount(coins.position, minlength=how_many)))).astype(np.int64)
    order = np.empty(len(coins), np.int64)
    place_in_order(coins.position, starts[:-1].copy(), order)
    coins = coins.take(order)
    lots_from = np.concatenate(([0], np.cumsum(np.bincount(opening.lot_position, minlength=how_many)))).astype(np.int64)
    flows = Flows(
        starts,
        ACQUIRES[coins.kind],
        np.ascontiguousarray(coins.quantity),
        np.ascontiguousarray(coins.value),
        np.ascontiguousarray(coins.ranked),
        lots_from,
        tuple(np.ascontiguousarray(opening.lots[:, column]) for column in (2, 3, 0, 1)),  # type: ignore[arg-type]
    )
    booked = book(method, flows, threads=buckets)
    _check_booked(booked, coins, positions, opening, flows)
    lot_keys, lots = _lots_left(booked, coins, positions, opening, day)
    gains = _gains(how_many, coins, booked.cost, currencies, lot_keys, lots, positions, opening, currency)
    return BookedDay(lot_keys, lots, gains)


def _check_order(trades: Trades) -> None:
    """Refuse fills that do not follow one another.

    Raises:
        GateError: a sequence and fill are there twice, or out of order.
    """
    same = trades.seq[1:] == trades.seq[:-1]
    fine = (trades.seq[1:] > trades.seq[:-1]) | (same & (trades.fill[1:] > trades.fill[:-1]))
    if not fine.all():
        at = int(np.flatnonzero(~fine)[0]) + 1
        raise GateError(
            f"fill {trades.fill[at]} of sequence {trades.seq[at]} follows"
            f" fill {trades.fill[at - 1]} of sequence {trades.seq[at - 1]}",
            rule="fills are booked in the engine's order, each once: their sequence increases",
            next_step="compare exchange.trades with the engine's journal: compline exchange replay JOURNAL",
        )


def _check_booked(booked: Booked, coins: Events, positions: Positions, opening: Opening, flows: Flows) -> None:
    if booked.oversold:
        g, event = booked.oversold[0]
        before = slice(int(flows.event_from[g]), event)
        signs = [1 if up else -1 for up in flows.incoming[before].tolist()]
        held = integers(opening.quantity[g : g + 1])[0]
        held += sum(sign * units for sign, units in zip(signs, integers(flows.quantity[before]), strict=True))
        units = integers(flows.quantity[event : event + 1])[0]
        raise GateError(
            f"user {positions.users[g]} disposes of {units} smallest units of asset {positions.assets[g]} at"
            f" sequence {coins.seq[event]} and has lots of {held}",
            rule="more than is held cannot be sold: there are no short positions",
            next_step="docs/runbooks/quantity_identity.md",
        )
    if booked.beyond:
        g = min(booked.beyond)
        raise GateError(
            f"user {positions.users[g]}: amounts of asset {positions.assets[g]} reach 2^127",
            rule="amounts lie within 2^127 smallest units",
            next_step="docs/runbooks/quantity_identity.md",
        )


def _lots_left(booked: Booked, coins: Events, positions: Positions, opening: Opening, day: int) -> tuple[Array, Array]:
    """Keys and amounts of the lots that are left."""
    slots = booked.live()
    place = np.searchsorted(booked.lot_from, slots, side="right") - 1
    origin = booked.origin[slots]
    new = origin >= 0
    keys = np.empty((len(slots), 5), np.int64)
    keys[:, 0], keys[:, 1] = positions.users[place], positions.assets[place]
    event, old = origin[new], -1 - origin[~new]
    keys[new, 2], keys[new, 3], keys[new, 4] = coins.seq[event], coins.sub[event], day
    keys[~new, 2], keys[~new, 3], keys[~new, 4] = opening.lot_seq[old], opening.lot_no[old], opening.lot_day[old]
    amounts = np.stack([booked.lots[column][slots] for column in (2, 3, 0, 1)], axis=1)
    return keys, amounts


def _gains(
    how_many: int,
    coins: Events,
    cost: Array,
    currencies: list[Events],
    lot_keys: Array,
    lots: Array,
    positions: Positions,
    opening: Opening,
    currency: int,
) -> Array:
    """The row of each position."""
    quantities, values, costs = (np.zeros((how_many * KINDS, 2), np.uint64) for _ in range(3))
    for events, worth, spent in ((coins, coins.value, cost), *((c, c.quantity, c.quantity) for c in currencies)):
        cells = events.position * KINDS + events.kind
        add_up(cells, np.ascontiguousarray(events.quantity), quantities)
        add_up(cells, np.ascontiguousarray(worth), values)
        add_up(np.where(ACQUIRES[events.kind], -1, cells), np.ascontiguousarray(spent), costs)
    q, v, c = (sums.reshape(how_many, KINDS, 2) for sums in (quantities, values, costs))
    proceeds, disposed = (total(sums[:, ~ACQUIRES]) for sums in (v, c))
    left = np.zeros((2, how_many, 2), np.uint64)
    place = positions.of(lot_keys[:, 0], lot_keys[:, 1])
    add_up(place, np.ascontiguousarray(lots[:, 2]), left[0])
    add_up(place, np.ascontiguousarray(lots[:, 3]), left[1])
    plain = positions.assets == currency
    held = plus(opening.quantity, minus(total(q[:, ACQUIRES]), total(q[:, ~ACQUIRES])))
    short = np.flatnonzero(plain & (held[:, 1] >> np.uint64(63) != 0))
    if len(short):
        raise GateError(
            f"user {positions.users[short[0]]} pays more of the reporting currency than is there",
            rule="more than is held cannot be spent",
            next_step="docs/runbooks/quantity_identity.md",
        )
    columns = [
        *(sums[:, kind] for kind in (BOUGHT, SOLD) for sums in (q, v)),
        *(minus(sums[:, FEE], sums[:, REBATE]) for sums in (q, v)),
        *(minus(sums[:, DEPOSIT], sums[:, REVERSED]) for sums in (q, v)),
        *(sums[:, kind] for kind in (WITHDRAWN, REWARD) for sums in (q, v)),
        *(minus(sums[:, ADJUSTED_UP], sums[:, ADJUSTED_DOWN]) for sums in (q, v)),
        proceeds,
        disposed,
        minus(proceeds, disposed),
        minus(v[:, SOLD], c[:, SOLD]),
        np.where(plain[:, None], held, left[0]),
        np.where(plain[:, None], held, left[1]),
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1))
