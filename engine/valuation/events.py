"""What trades and transfers do to positions: one event a leg, a fee and a transfer, in the engine's order.

What belongs here: which events a trade has, and what each is worth to its position.
What does not: booking them (see `day`), and values in the reporting currency (see `engine/store/migrations`).

Amounts are words of 128 bits as in `words`, in smallest units of their asset; values are in those of the reporting
currency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.valuation.words import Array, at_most, minus, plus

BOUGHT, SOLD, FEE, REBATE, DEPOSIT, REVERSED, WITHDRAWN, REWARD, ADJUSTED_UP, ADJUSTED_DOWN, KINDS = range(11)
ACQUIRES = np.isin(np.arange(KINDS), (BOUGHT, REBATE, DEPOSIT, REWARD, ADJUSTED_UP))
LEGS = 8
"""Numbers that the lots of one fill may have: base of maker and taker, quote of both, rebates of both."""


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
class Events:
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

    def take(self, which: Array) -> Events:
        """Some of the events, in an order."""
        return Events(*(getattr(self, name)[which] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: list[Events]) -> Events:
        """Events of several sources, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


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


def events_of(trades: Trades, transfers: Transfers, positions: Positions, capitalised_in: int | None) -> list[Events]:
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
            into = ~rebate & (buys | at_most(worth, price)) & (trades.base != capitalised_in)
            moved = np.where(buys[:, None], plus(price, worth), minus(price, worth))
            price = np.where(into[:, None], moved, price)
        legs = (
            (base, np.where(buys, BOUGHT, SOLD), trades.quantity, price, trades.value),
            (quote, np.where(buys, SOLD, BOUGHT), trades.quote_quantity, trades.value, trades.value),
            (quote, np.where(rebate, REBATE, FEE), fees, worth, worth),
        )
        for leg, (position, kind, quantity, value, ranked) in enumerate(legs):
            sub = number + 2 * leg
            event = Events(row + 2 * sub, trades.seq, trades.fill * LEGS + sub, position, kind, quantity, value, ranked)
            parts.append(event if leg < 2 else event.take(np.flatnonzero((fees != 0).any(axis=1))))
    # A command is a trade's or a transfer's, so no sequence is both.
    before = np.searchsorted(trades.seq, transfers.seq) * 2 * LEGS
    position = positions.of(transfers.user, transfers.asset)
    none = np.zeros(len(transfers.seq), np.int64)
    amounts = (transfers.quantity, transfers.value, transfers.value)
    parts.append(Events(before, transfers.seq, none, position, transfers.kind, *amounts))
    return parts
