"""The arrays of a replay: sized from a journal before it runs, and read back into an online engine's state.

What belongs here: dense numbers for accounts, assets, markets and prices; loading configuration; reading results.
What does not: what commands do (see `kernels.replay`), and the journal's walk (see `replay_numba`).

Everything is sized by counting the journal's records first, so the kernel never has to grow anything. A market's levels
are its ticks between the lowest and highest limit that the journal names, or where those lie too far apart the ranks of
all its limits: any 64-bit price then has a level.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import cast

import numpy as np
import numpy.typing as npt

from engine.exchange.book import Book, Order
from engine.exchange.codec import BODY_BYTES, RECORD_BYTES, TEXT_BYTES, Kind
from engine.exchange.kernels import bitmap
from engine.exchange.kernels import replay_arrays as column
from engine.exchange.kernels.replay_arrays import World
from engine.exchange.kernels.replay_checks import add_account
from engine.exchange.state import EngineState, UsedOrderKey

Ints = npt.NDArray[np.int64]

MAX_WORLD_BYTES = 1 << 33
"""A journal that needs larger arrays than this is replayed by the online engine."""

_TICKS_AT_LEAST = 1 << 16
_ROWS = 11
_BITS = 64
_LOW = 2**64 - 1
_TEXT = slice(BODY_BYTES - TEXT_BYTES, BODY_BYTES)


class TooLargeError(Exception):
    """A journal's accounts and assets span too large an array."""


class Dense:
    """Which row of an array a number has."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.index: dict[int, int] = {}

    def add(self, number: int) -> int:
        """The row of a number, a new one where it has none."""
        if number not in self.index:
            self.index[number] = len(self.numbers)
            self.numbers.append(number)
        return self.index[number]


class ReplayWorld:
    """The arrays of one replay, and the dense numbers in them."""

    def __init__(self, raw: npt.NDArray[np.uint8]) -> None:
        """Size the arrays for a journal's records ([records, 160] bytes).

        Raises:
            TooLargeError: they would be too large.
        """
        self.accounts, self.assets, self.markets = Dense(), Dense(), Dense()
        words = raw.view(np.uint32)
        kinds = raw[:, column.KIND_BYTE]
        counts = np.bincount(kinds, minlength=256)
        many_accounts = int(counts[Kind.OPEN_ACCOUNT]) + 1
        many_assets = int(counts[Kind.SET_ASSET]) + 1
        many_markets = int(counts[Kind.SET_MARKET]) + 1
        orders = int(counts[Kind.NEW_ORDER] + counts[Kind.AMEND_ORDER]) + 1
        if many_accounts * many_assets * 64 > MAX_WORLD_BYTES:
            raise TooLargeError
        ticks, levels, bits, self.shapes = _levels(raw, words, kinds)
        table = 1 << (2 * many_accounts).bit_length()
        references = 1 << (2 * orders).bit_length()
        self.world = World(
            raw=raw,
            words=words,
            ticks=ticks,
            reasons=np.zeros(len(raw), np.uint8),
            counters=np.zeros(8, np.int64),
            market_of=np.full(1 << 16, -1, np.int32),
            markets=np.zeros((many_markets, column.MARKET_COLUMNS), np.int64),
            wides=np.zeros((many_markets, 4), np.uint64),
            offsets=np.zeros((many_markets, _ROWS), np.int64),
            levels=np.zeros((levels + 1, 2), np.uint32),
            bits=np.zeros(bits + 1, np.uint64),
            account_keys=np.zeros(table, np.uint64),
            account_values=np.zeros(table, np.int64),
            accounts=np.zeros((many_accounts, 8), np.int64),
            balances=np.zeros((many_accounts * many_assets, 8), np.uint64),
            fees=np.zeros((many_assets, 2), np.uint64),
            slots=np.zeros((orders + 1, column.SLOT_COLUMNS), np.int64),
            slot_of=np.zeros(len(raw) + 2, np.uint32),
            references=np.zeros(references, np.uint32),
            trades=np.empty((orders, column.TRADE_COLUMNS), np.int64),
        )

    def load(self, state: EngineState) -> None:
        """Take over what configuration commands changed: markets, accounts, tiers, venue prices, genesis."""
        world, registry = self.world, state.registry
        world.counters[column.GENESIS] = state.in_genesis
        for asset in registry.assets:
            self.assets.add(asset)
        for number, market in registry.markets.items():
            known = number in self.markets.index
            at = self.markets.add(number)
            row, limits = world.markets[at], market.limits
            row[column.BASE] = self.assets.index[market.base]
            row[column.QUOTE] = self.assets.index[market.quote]
            row[column.PER_TICK_LOT] = market.quote_units_per_tick_lot
            row[column.BAND], row[column.SLIPPAGE] = limits.band_ppm, limits.slippage_ppm
            row[column.MAX_AGE], row[column.MOST_TICKS] = limits.reference_max_age_us, market.most_ticks
            row[column.LEAST_LOTS : column.MOST_LOTS + 1] = np.array(
                [limits.min_quantity_lots, limits.max_quantity_lots], np.uint64
            ).view(np.int64)
            venue = state.references.get(number)
            if venue is not None:
                row[column.VENUE_PRICE], row[column.VENUE_TIME] = venue.price_ticks, venue.sequenced_us
            world.wides[at] = (*_two(market.base_units_per_lot), *_two(limits.min_notional_units))
            if not known:
                self._shape(number, at)
        for number in registry.accounts:
            self.load_account(state, number)

    def load_account(self, state: EngineState, number: int) -> None:
        """Take over what one account may do and pays."""
        if number not in self.accounts.index:
            add_account(self.world, np.uint64(number), self.accounts.add(number))
        account = state.registry.accounts[number]
        row = self.world.accounts[self.accounts.index[number]]
        row[column.MAY_TRADE], row[column.TIER] = account.may_trade, state.account_tiers.get(number, 0)
        row[column.MAKER_RATE], row[column.TAKER_RATE] = state.rates(number)

    def _shape(self, number: int, at: int) -> None:
        """Give a new market its levels."""
        first, ticks, start, rows = self.shapes.get(number, (0, 0, 0, [0, 0]))
        row = self.world.markets[at]
        row[column.BEST_BID], row[column.BEST_ASK] = -1, ticks
        row[column.LEVELS], row[column.TICKS] = first, ticks
        row[column.WORDS], row[column.ROWS] = start, len(rows) - 1
        self.world.offsets[at, : len(rows)] = rows
        self.world.market_of[number] = at

    def row(self, account: int, asset: int) -> npt.NDArray[np.uint64]:
        """The eight words of a balance."""
        index = self.accounts.index[account] * len(self.world.fees) + self.assets.index[asset]
        row: npt.NDArray[np.uint64] = self.world.balances[index]
        return row

    def write_back(self, state: EngineState, fresh_from: int, today_from: int) -> None:
        """Fill a state with what the kernel decided: balances, fees, books, references, prices.

        Args:
            state: its registry and keys are there.
            fresh_from: first record whose client reference counts.
            today_from: first record of the open day.
        """
        world = self.world
        state.balances = {}
        for number, account in sorted(self.accounts.index.items()):
            rows = world.balances[account * len(world.fees) : (account + 1) * len(world.fees)]
            for at in np.flatnonzero(rows.any(axis=1)).tolist():
                words = rows[at].tolist()
                held = [words[i] | words[i + 1] << _BITS for i in (0, 2, 4, 6)]
                state.balances[number, self.assets.numbers[at]] = held
        for number, at in self.assets.index.items():
            low, high = world.fees[at].tolist()
            units = low | high << _BITS
            state.fees[number] = units - (1 << 128) if high >> 63 else units
        state.next_trade_id = int(world.counters[column.TRADES]) + 1
        for number, at in self.markets.index.items():
            last = int(world.markets[at, column.LAST_PRICE])
            if last:
                state.last_prices[number] = last
            state.books[number] = self._book(state, number, at)
        self._references(state, fresh_from, today_from)

    def _references(self, state: EngineState, fresh_from: int, today_from: int) -> None:
        """The client references of two days and of older resting orders; read in columns, since a day has many."""
        raw, words = self.world.raw, self.world.words
        known = self.world.references
        at = known[(known > fresh_from) | (self.world.slot_of[known] != 0)].astype(np.int64) - 1
        texts = raw[at, _TEXT].copy().view(f"S{TEXT_BYTES}").ravel().tolist()
        fields = (
            _wide_column(words, at, column.W_ACCOUNT).tolist(),
            (words[at, column.W_MARKET] & 0xFFFF).tolist(),
            raw[at, column.SIDE_BYTE].tolist(),
            raw[at, column.TIF_BYTE].tolist(),
            _wide_column(words, at, column.W_PRICE).view(np.int64).tolist(),
            _wide_column(words, at, column.W_QUANTITY).view(np.int64).tolist(),
            _wide_column(words, at, column.W_RESERVE).tolist(),
        )
        keys = map(UsedOrderKey._make, zip((at + 1).tolist(), *fields[1:], strict=True))
        for key, text, account in zip(keys, texts, fields[0], strict=True):
            references = state.order_references[0 if key.seq > today_from else 1 if key.seq > fresh_from else 2]
            references[account, text.decode("ascii")] = key

    def _book(self, state: EngineState, number: int, at: int) -> Book:
        """A market's book as the online engine keeps it."""
        world, book = self.world, Book()
        first, ticks = (int(world.markets[at, c]) for c in (column.LEVELS, column.TICKS))
        heads = world.levels[first : first + ticks, 0]
        for tick in np.flatnonzero(heads).tolist():
            slot = int(heads[tick])
            while slot:
                row = world.slots[slot].tolist()
                account = self.accounts.numbers[row[column.ACCOUNT]]
                order = Order(
                    row[column.ORDER_ID],
                    account,
                    row[column.SIDE],
                    row[column.PRICE],
                    row[column.QUANTITY],
                    row[column.RATE],
                    bool(row[column.POST_ONLY]),
                    row[column.RESERVE],
                )
                book.rest(order)
                state.order_market[order.order_id] = number
                state.account_orders.setdefault(account, set()).add(order.order_id)
                slot = row[column.NEXT]
        return book


class Balances(MutableMapping[tuple[int, int], list[int]]):
    """The kernel's balances as the mapping that the online engine's transfers read and change."""

    def __init__(self, arrays: ReplayWorld) -> None:
        self._arrays = arrays

    def __getitem__(self, key: tuple[int, int]) -> list[int]:
        return cast("list[int]", _Row(self._arrays.row(*key)))

    def __setitem__(self, key: tuple[int, int], value: list[int]) -> None:
        row = _Row(self._arrays.row(*key))
        for place, units in enumerate(value):
            row[place] = units

    def __delitem__(self, key: tuple[int, int]) -> None:
        self[key] = [0, 0, 0, 0]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Row:
    """Four amounts of two words each."""

    def __init__(self, words: npt.NDArray[np.uint64]) -> None:
        self._words = words

    def __getitem__(self, place: int) -> int:
        return int(self._words[2 * place]) | int(self._words[2 * place + 1]) << _BITS

    def __setitem__(self, place: int, units: int) -> None:
        self._words[2 * place], self._words[2 * place + 1] = _two(units)


def _wide_column(words: npt.NDArray[np.uint32], at: Ints, field: int) -> npt.NDArray[np.uint64]:
    """A 64-bit field of some records."""
    made: npt.NDArray[np.uint64] = words[at, field].astype(np.uint64)
    made |= words[at, field + 1].astype(np.uint64) << np.uint64(32)
    return made


def _two(units: int) -> tuple[int, int]:
    return units & _LOW, units >> _BITS & _LOW


Shape = tuple[int, int, int, list[int]]


def _levels(
    raw: npt.NDArray[np.uint8], words: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]
) -> tuple[Ints, int, int, dict[int, Shape]]:
    """Levels for every price that an order could rest at.

    Returns:
        Dense price of each record; levels and bitmap words of all markets; each market's first level, number of levels,
        first bitmap word and bitmap rows.
    """
    ticks = np.zeros(len(raw), np.int64)
    numbers = (words[:, column.W_MARKET] & 0xFFFF).astype(np.int64)
    everywhere = np.arange(len(raw))
    prices = _wide_column(words, everywhere, column.W_PRICE).view(np.int64)
    placed = kinds == Kind.NEW_ORDER
    amends = np.flatnonzero(kinds == Kind.AMEND_ORDER)
    if len(amends):
        ids = _wide_column(words, amends, column.W_ORDER)
        known = (ids > 0) & (ids <= len(raw))
        numbers[amends[known]] = numbers[ids[known].astype(np.int64) - 1]
        placed[amends[known]] = True
    placed &= prices > 0
    levels = bits = 0
    shapes: dict[int, Shape] = {}
    for number in np.unique(numbers[placed]).tolist():
        mine = np.flatnonzero(placed & (numbers == number))
        these = prices[mine]
        low, high = int(these.min()), int(these.max())
        if high - low < max(_TICKS_AT_LEAST, 4 * len(these)):
            ticks[mine] = these - low
            size = high - low + 1
        else:
            different, ranks = np.unique(these, return_inverse=True)
            ticks[mine] = ranks
            size = len(different)
        rows = bitmap.layout(size)
        shapes[number] = (levels, size, bits, rows)
        levels += size
        bits += rows[-1]
    return ticks, levels, bits, shapes


def records_of(data: bytes | bytearray | memoryview | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Journal bytes without the header as [records, 160]; a short last record is left out."""
    flat = np.frombuffer(data, np.uint8)
    whole = len(flat) // RECORD_BYTES
    return flat[: whole * RECORD_BYTES].reshape(whole, RECORD_BYTES)
