"""A day of positions: its trades and transfers become events, the events are booked, and each position gets its row.

What belongs here: which events a trade has, what each is worth to its position, and the sums of a position's row.
What does not: reading and writing Postgres (see `engine.store.lots`), and booking itself (see `booking`).

Amounts are words of 128 bits as in `booking`, in smallest units of their asset; values are in those of the reporting
currency, which is worth itself: its positions have no lots, their cost is their quantity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GateError
from engine.valuation.booking import Booked, Flows, book, integers
from engine.valuation.kernels.copy_rows import add_up, place_in_order
from engine.valuation.method import Method

Array = npt.NDArray[Any]

BOUGHT, SOLD, FEE, REBATE, DEPOSIT, REVERSED, WITHDRAWN, REWARD, ADJUSTED_UP, ADJUSTED_DOWN, KINDS = range(11)
_ACQUIRES = np.isin(np.arange(KINDS), (BOUGHT, REBATE, DEPOSIT, REWARD, ADJUSTED_UP))
LEGS = 8
"""Numbers that the lots of one fill may have: base of maker and taker, quote of both, rebates of both."""

GAIN_COLUMNS = (
    "bought, bought_value, sold, sold_value, fees, fees_value, deposited, deposited_value, withdrawn, withdrawn_value,"
    " rewarded, rewarded_value, adjusted, adjusted_value, proceeds, disposed_cost, realized, trading_pnl, quantity,"
    " cost"
)
IS_VALUE = np.array([False, True] * 7 + [True, True, True, True, False, True])


@dataclass(slots=True)
class Trades:
    """Fills of a day in the engine's order; one row each, amounts uint64[rows, 2].

    Attributes:
        seq: the engine's sequence. fill: the number of the fill within it.
        base: number of the asset. quote: alike.
        maker: user. taker: user.
        taker_buys: bool.
        quantity: of base. quote_quantity: of quote.
        fees: of maker and taker, in quote, magnitudes. rebate: which of them are negative, bool.
        value: of the trade. fee_values: of the fees, magnitudes.
    """

    seq: Array
    fill: Array
    base: Array
    quote: Array
    maker: Array
    taker: Array
    taker_buys: Array
    quantity: Array
    quote_quantity: Array
    fees: tuple[Array, Array]
    rebate: tuple[Array, Array]
    value: Array
    fee_values: tuple[Array, Array]


@dataclass(slots=True)
class Transfers:
    """Deposits, withdrawals, rewards and adjustments in the engine's order; `kind` is one of the kinds above."""

    seq: Array
    user: Array
    asset: Array
    kind: Array
    quantity: Array
    value: Array


@dataclass(slots=True)
class Positions:
    """Positions that a day changes, ordered by user and asset; `at` finds one by place of user and number of asset."""

    users: Array
    assets: Array
    at: Array
    known_users: Array

    def of(self, user: Array, asset: Array) -> Array:
        """The places of positions; users and assets are of this day."""
        found: Array = self.at[np.searchsorted(self.known_users, user), asset]
        return found


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


def positions_of(trades: Trades, transfers: Transfers, assets: int) -> Positions:
    """Positions that the events change.

    Args:
        trades: of the day.
        transfers: of the day.
        assets: one more than the greatest number of an asset.
    """
    users = np.unique(np.concatenate((trades.maker, trades.taker, transfers.user)))
    there = np.zeros((len(users), assets), bool)
    for user in (trades.maker, trades.taker):
        place = np.searchsorted(users, user)
        there[place, trades.base] = True
        there[place, trades.quote] = True
    there[np.searchsorted(users, transfers.user), transfers.asset] = True
    at = np.full(there.shape, -1, np.int64)
    at[there] = np.arange(int(there.sum()))
    rows, columns = np.nonzero(there)
    return Positions(users[rows], columns.astype(np.int64), at, users)


@dataclass(slots=True)
class _Events:
    """Events of one source; `when` orders those of all, `sub` numbers those of one sequence."""

    when: Array
    seq: Array
    sub: Array
    position: Array
    kind: Array
    quantity: Array
    value: Array
    ranked: Array

    def __len__(self) -> int:
        return len(self.seq)

    def take(self, which: Array) -> _Events:
        """Some of the events, in an order."""
        return _Events(*(getattr(self, name)[which] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: list[_Events]) -> _Events:
        """Events of several sources, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


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
    parts = _events(trades, transfers, positions, currency if fees_into_price else None)
    plain = positions.assets == currency
    currencies = [part.take(np.flatnonzero(plain[part.position])) for part in parts]
    coins = _Events.joined([part.take(np.flatnonzero(~plain[part.position])) for part in parts])
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
        _ACQUIRES[coins.kind],
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


def _events(trades: Trades, transfers: Transfers, positions: Positions, capitalised_in: int | None) -> list[_Events]:
    """Every leg of every trade, every fee and every transfer, by source.

    Args:
        trades: of the day.
        transfers: of the day.
        positions: those that change.
        capitalised_in: the reporting currency, where fees go into the price of what is not that.
    """
    parts = []
    row = np.arange(len(trades.seq), dtype=np.int64) * 2 * LEGS + 1
    sides = ((trades.maker, ~trades.taker_buys), (trades.taker, trades.taker_buys))
    for number, (user, buys) in enumerate(sides):
        fees, worth, rebate = trades.fees[number], trades.fee_values[number], trades.rebate[number]
        base, quote = positions.of(user, trades.base), positions.of(user, trades.quote)
        price = trades.value
        if capitalised_in is not None:
            into = ~rebate & (buys | _at_most(worth, price)) & (trades.base != capitalised_in)
            moved = np.where(buys[:, None], _plus(price, worth), _minus(price, worth))
            price = np.where(into[:, None], moved, price)
        legs = (
            (base, np.where(buys, BOUGHT, SOLD), trades.quantity, price, trades.value),
            (quote, np.where(buys, SOLD, BOUGHT), trades.quote_quantity, trades.value, trades.value),
            (quote, np.where(rebate, REBATE, FEE), fees, worth, worth),
        )
        for leg, (position, kind, quantity, value, ranked) in enumerate(legs):
            sub = number + 2 * leg
            event = _Events(
                row + 2 * sub, trades.seq, trades.fill * LEGS + sub, position, kind, quantity, value, ranked
            )
            parts.append(event if leg < 2 else event.take(np.flatnonzero((fees != 0).any(axis=1))))
    # A command is a trade's or a transfer's, so no sequence is both.
    before = np.searchsorted(trades.seq, transfers.seq) * 2 * LEGS
    position = positions.of(transfers.user, transfers.asset)
    none = np.zeros(len(transfers.seq), np.int64)
    amounts = (transfers.quantity, transfers.value, transfers.value)
    parts.append(_Events(before, transfers.seq, none, position, transfers.kind, *amounts))
    return parts


def _check_booked(booked: Booked, coins: _Events, positions: Positions, opening: Opening, flows: Flows) -> None:
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


def _lots_left(booked: Booked, coins: _Events, positions: Positions, opening: Opening, day: int) -> tuple[Array, Array]:
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
    coins: _Events,
    cost: Array,
    currencies: list[_Events],
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
        add_up(np.where(_ACQUIRES[events.kind], -1, cells), np.ascontiguousarray(spent), costs)
    q, v, c = (sums.reshape(how_many, KINDS, 2) for sums in (quantities, values, costs))
    proceeds, disposed = (_sum(sums[:, ~_ACQUIRES]) for sums in (v, c))
    left = np.zeros((2, how_many, 2), np.uint64)
    place = positions.of(lot_keys[:, 0], lot_keys[:, 1])
    add_up(place, np.ascontiguousarray(lots[:, 2]), left[0])
    add_up(place, np.ascontiguousarray(lots[:, 3]), left[1])
    plain = positions.assets == currency
    held = _plus(opening.quantity, _minus(_sum(q[:, _ACQUIRES]), _sum(q[:, ~_ACQUIRES])))
    short = np.flatnonzero(plain & (held[:, 1] >> np.uint64(63) != 0))
    if len(short):
        raise GateError(
            f"user {positions.users[short[0]]} pays more of the reporting currency than is there",
            rule="more than is held cannot be spent",
            next_step="docs/runbooks/quantity_identity.md",
        )
    columns = [
        *(sums[:, kind] for kind in (BOUGHT, SOLD) for sums in (q, v)),
        *(_minus(sums[:, FEE], sums[:, REBATE]) for sums in (q, v)),
        *(_minus(sums[:, DEPOSIT], sums[:, REVERSED]) for sums in (q, v)),
        *(sums[:, kind] for kind in (WITHDRAWN, REWARD) for sums in (q, v)),
        *(_minus(sums[:, ADJUSTED_UP], sums[:, ADJUSTED_DOWN]) for sums in (q, v)),
        proceeds,
        disposed,
        _minus(proceeds, disposed),
        _minus(v[:, SOLD], c[:, SOLD]),
        np.where(plain[:, None], held, left[0]),
        np.where(plain[:, None], held, left[1]),
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1))


def _plus(a: Array, b: Array) -> Array:
    """Sums of amounts, modulo 2^128."""
    low = a[..., 0] + b[..., 0]
    return np.stack((low, a[..., 1] + b[..., 1] + (low < a[..., 0]).astype(np.uint64)), axis=-1)


def _minus(a: Array, b: Array) -> Array:
    """Differences of amounts, modulo 2^128."""
    borrow = (a[..., 0] < b[..., 0]).astype(np.uint64)
    return np.stack((a[..., 0] - b[..., 0], a[..., 1] - b[..., 1] - borrow), axis=-1)


def _sum(amounts: Array) -> Array:
    """Sums over the kinds of each position."""
    total = amounts[:, 0]
    for kind in range(1, amounts.shape[1]):
        total = _plus(total, amounts[:, kind])
    return total


def _at_most(a: Array, b: Array) -> Array:
    """Whether unsigned amounts are at most others."""
    found: Array = (a[:, 1] < b[:, 1]) | ((a[:, 1] == b[:, 1]) & (a[:, 0] <= b[:, 0]))
    return found
