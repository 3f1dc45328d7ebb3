"""Trades as columns of integers, read in one pass over them.

What belongs here: from objects to arrays, and amounts of more than 64 bits.
What does not: names and legs (see `settlement_arrays`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.exchange.events import Trade
from engine.exchange.kernels import settlement_rows as kernels

Array = npt.NDArray[Any]
_PLAIN = (
    "trade_id", "trade_id", "engine_seq", "fill_index", "close_day", "sequenced_us", "effective_us", "taker_side",
    "maker_account", "taker_account", "maker_order_id", "taker_order_id", "maker_rate_ppm", "taker_rate_ppm", "market",
)  # fmt: skip
"""In the order of the kernels' columns; the posting number comes later."""
_AT_ONCE = 5_000
_WIDE = ("price_ticks", "base_units", "quote_units", "maker_fee_units", "taker_fee_units")


def columns_of(trades: Sequence[Trade]) -> tuple[Array, Array, Array]:
    """The plain columns of trades, and the wide ones in two halves, with the price in ticks.

    Raises:
        OverflowError: a number beyond the arrays (amounts of 2^127, ids of 2^63).
    """
    try:
        every = _read(trades, (*_PLAIN, *_WIDE))
    except OverflowError:
        halves = [wide([getattr(trade, name) for trade in trades]) for name in _WIDE]
        upper, lower = (np.ascontiguousarray(np.stack(side, axis=1)) for side in zip(*halves, strict=True))
        return _read(trades, _PLAIN), upper, lower
    small = np.ascontiguousarray(every[:, len(_PLAIN) :])
    return every, small >> 63, small.view(np.uint64)


def _read(trades: Sequence[Trade], names: Sequence[str]) -> Array:
    read = np.empty((len(trades), len(names)), np.int64)
    flat, width = read.reshape(-1), len(names)
    # A tuple a trade, one at a time: no list of them that the garbage collector would walk.
    numbers = chain.from_iterable(map(attrgetter(*names), trades))
    for start in range(0, len(flat), _AT_ONCE * width):
        # In pieces: while one is read no other thread runs Python, and Postgres may wait for one that would.
        end = min(start + _AT_ONCE * width, len(flat))
        flat[start:end] = np.fromiter(numbers, np.int64, end - start)
    return read


def price_columns(trades: Sequence[Trade], upper: Array, lower: Array, places: Array, ticks: Sequence[int]) -> None:
    """Make prices of what `columns_of` read in ticks, in units of 10^-18.

    Args:
        trades: what the columns were read from.
        upper: see `columns_of`.
        lower: the same.
        places: of each trade's market in `ticks`.
        ticks: the price of a tick of each market.

    Raises:
        OverflowError: a price of 2^127 units.
    """
    fits = max(ticks) < 1 << 64
    if not fits or not kernels.make_prices(upper, lower, places, np.array(ticks, np.uint64)):
        prices = [t.price_ticks * ticks[n] for t, n in zip(trades, places.tolist(), strict=True)]
        upper[:, kernels.PRICE], lower[:, kernels.PRICE] = wide(prices)


def wide(values: Sequence[int]) -> tuple[Array, Array]:
    """Integers as signed upper and unsigned lower halves.

    Raises:
        OverflowError: one is 2^127 or more, or -2^127 or less.
    """
    try:
        small = np.array(values, dtype=np.int64)
    except OverflowError:
        halves = np.frombuffer(b"".join([v.to_bytes(16, "little", signed=True) for v in values]), dtype="<u8")
        lower, upper = halves[0::2].copy(), halves[1::2].astype(np.int64)
        if np.any((upper == np.iinfo(np.int64).min) & (lower == 0)):
            raise OverflowError("-2^127 has no opposite") from None
        return upper, lower
    return small >> 63, small.astype(np.uint64)
