"""A batch of trades as arrays, and their rows for binary COPY out of compiled loops.

What belongs here: names and legs of trades; the buffers that kernels fill. What does not: reading columns (see
`settlement_columns`), the loops (see `engine.exchange.kernels.settlement_rows`), single rows (see `settlement_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.clock import EPOCH, to_us
from engine.errors import LedgerRefusedError
from engine.exchange.events import Trade
from engine.exchange.kernels import settlement_rows as kernels
from engine.exchange.kernels.copy_fields import GROUPS, LIMBS
from engine.exchange.postings import journal_of
from engine.exchange.state import Registry
from engine.ledger.journal import check_balanced
from engine.reserves.kernels import sha256
from engine.store.settlement_columns import columns_of, price_columns
from engine.store.settlement_names import Names, Pair
from engine.store.settlement_rows import tick_of

Array = npt.NDArray[Any]
LAST_US = to_us(EPOCH.replace(year=9999))
"""Where the kernels' calendar ends; before 1970 it does not reach either."""
_INT4 = (kernels.FILL, kernels.DAY, kernels.MAKER_RATE, kernels.TAKER_RATE)
_TIMES = (kernels.SEQUENCED, kernels.EFFECTIVE)


@dataclass(slots=True)
class TradeArrays:
    """Trades as columns; what each holds is said by the kernels.

    Attributes:
        parties: per leg the place of its account's name.
        assets: per leg the place of its asset's name.
        legs: how many each trade has.
    """

    plain: Array
    upper: Array
    lower: Array
    place: Array
    markets: Array
    decimals: Array
    parties: Array
    assets: Array
    leg_upper: Array
    leg_lower: Array
    legs: Array
    _texts: Array
    _ends: Array
    _longest_name: int
    _longest_symbol: int
    _scratch: tuple[Array, Array]
    _hashes: Array | None = None

    def number(self, postings: Array) -> None:
        """Give each trade the posting number of its journal."""
        self.plain[:, kernels.POSTING] = postings

    def days(self) -> list[int]:
        """The close dates that trades are of, as days since 1970."""
        days = self.plain[:, kernels.DAY]
        # In the engine's order, in which days do not go back.
        return [int(days[0])] if days[0] == days[-1] and not np.any(np.diff(days)) else np.unique(days).tolist()

    def ids(self, names: Names, find: Callable[[list[Pair]], list[int]]) -> Array:
        """The account of every leg, int64[trades, LEGS]; of those that `names` does not know, as `find` says.

        Args:
            names: what the arrays were made with.
            find: from accounts and assets by name to the ledger's numbers.
        """
        ids = names.ids(self.parties, self.assets)
        new = (ids == 0) & (np.arange(kernels.LEGS) < self.legs[:, None])
        if not new.any():
            return ids
        keys = np.unique(self.parties[new] << 32 | self.assets[new])
        parties, assets = keys >> 32, keys & 0xFFFFFFFF
        pairs = list(zip(names.at(parties), names.at(assets), strict=True))
        names.learn(parties, assets, find(pairs))
        return names.ids(self.parties, self.assets)

    def trade_rows(self) -> memoryview:
        """Rows of `exchange.trades`."""
        return self._filled(
            360 + self._longest_symbol,
            lambda out: kernels.put_trades(
                out, self.plain, self.upper, self.lower, self.place, self.markets, self._texts, self._ends,
                *self._scratch,
            ),
        )  # fmt: skip

    def journal_rows(self) -> memoryview:
        """Rows of `ledger.journals`."""
        hashes = self.row_hashes() if self._hashes is None else self._hashes
        return self._filled(
            200 + self._longest_name,
            lambda out: kernels.put_journals(out, self.plain, hashes, self._texts, self._ends, *self._scratch),
        )

    def leg_rows(self, account_ids: Array) -> memoryview:
        """Rows of `ledger.ledger_entries`; `account_ids` is int64[trades, LEGS]."""
        return self._filled(
            kernels.LEGS * (80 + self._longest_symbol),
            lambda out: kernels.put_legs(
                out, self.plain, account_ids, self.assets, self.leg_upper, self.leg_lower, self.legs, self.decimals,
                self._texts, self._ends, *self._scratch,
            ),
        )  # fmt: skip

    def hash_journals(self) -> None:
        """Make the hashes that `journal_rows` carries: half of the work, and it needs no posting number."""
        self._hashes = self.row_hashes()

    def row_hashes(self) -> Array:
        """The row hash of each trade's journal, uint8[trades, 32]."""
        line = 2 * self._longest_name + 3 + kernels.LONGEST_NUMBER
        ends = np.zeros(len(self.plain), np.int64)
        out = np.empty(len(self.plain) * (100 + kernels.LEGS * line), np.uint8)
        kernels.put_canonical(
            out, ends, self.plain, self.parties, self.assets, self.leg_upper, self.leg_lower, self.legs,
            self._texts, self._ends, np.empty(kernels.LEGS * line, np.uint8), np.empty(kernels.LEGS + 1, np.int64),
            np.empty(kernels.LEGS, np.int64), *self._scratch,
        )  # fmt: skip
        hashed, scratch = np.empty((len(self.plain), 32), np.uint8), sha256.new_scratch()
        sha256.hash_texts(sha256.block_address(), scratch, scratch.view(np.uint32), out, ends, hashed)
        return hashed

    def _filled(self, row_bytes: int, fill: Callable[[Array], int]) -> memoryview:
        # Not touched is not resident: the bound on a row costs address space only.
        out = np.empty(len(self.plain) * row_bytes, np.uint8)
        return out.data[: fill(out)]


def arrays_of(trades: Sequence[Trade], registry: Registry, names: Names) -> TradeArrays:
    """Columns and legs of trades, of which there is at least one.

    Args:
        trades: in sequence order.
        registry: names and scales.
        names: of the batches before; what is new is added.

    Raises:
        OverflowError: a number beyond the arrays (amounts of 2^127, ids of 2^63).
        LedgerRefusedError: a trade of no base or no quote units.
        ValueError: a name that is not printable ASCII.
    """
    plain, upper, lower = columns_of(trades)
    small, times = plain[:, _INT4], plain[:, _TIMES]
    if np.any(small != small.astype(np.int32)) or np.any((times < 0) | (times >= LAST_US)):
        raise OverflowError("an index, a day, a rate or a time beyond its column")
    numbers_of, rows = np.unique(plain[:, kernels.MARKET], return_inverse=True)
    place = np.empty((len(trades), 3), np.int64)
    place[:, kernels.AT_MARKET] = rows
    with names.lock:
        markets = np.array([_market(registry, market, names) for market in numbers_of.tolist()], np.int64)
        parties = names.accounts(plain[:, kernels.MAKER : kernels.TAKER + 1], registry)
        texts, ends, count = names.texts, names.ends, names.count
        longest, longest_symbol = names.longest(), names.longest(markets[:, : kernels.QUOTE_ASSET + 1])
    place[:, kernels.AT_MAKER : kernels.AT_TAKER + 1] = parties
    decimals = np.zeros(count, np.int64)
    decimals[markets[:, kernels.BASE_ASSET]] = markets[:, kernels.BASE_DECIMALS]
    decimals[markets[:, kernels.QUOTE_ASSET]] = markets[:, kernels.QUOTE_DECIMALS]
    ticks = [tick_of(registry.markets[market], registry) for market in numbers_of.tolist()]
    price_columns(trades, upper, lower, rows, ticks)
    _refuse_nothing(trades, upper, lower, registry)
    shape = (len(trades), kernels.LEGS)
    made = TradeArrays(
        plain, upper, lower, place, markets, decimals,
        np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.uint64),
        np.zeros(len(trades), np.int64), texts, ends, longest, longest_symbol,
        (np.zeros(LIMBS, np.uint64), np.zeros(GROUPS, np.int64)),
    )  # fmt: skip
    kernels.make_legs(
        plain, upper, lower, place, markets, made.parties, made.assets, made.leg_upper, made.leg_lower, made.legs
    )
    # Where a trade has fewer legs than there is room for, the rest says the first name twice: nobody reads it.
    return made


def _market(registry: Registry, number: int, names: Names) -> tuple[int, int, int, int, int, int]:
    market = registry.markets[number]
    base, quote = registry.assets[market.base], registry.assets[market.quote]
    return (
        names.market(number, market.symbol),
        names.asset(market.base, base.symbol),
        names.asset(market.quote, quote.symbol),
        base.decimals,
        quote.decimals,
        base.symbol < quote.symbol,
    )


def _refuse_nothing(trades: Sequence[Trade], upper: Array, lower: Array, registry: Registry) -> None:
    """All other legs come in pairs: only an amount of zero can be wrong with a trade's journal."""
    columns = [kernels.BASE, kernels.QUOTE]
    for n in np.flatnonzero(np.any((upper[:, columns] == 0) & (lower[:, columns] == 0), axis=1)).tolist():
        journal = journal_of(trades[n], registry)
        assert journal is not None
        check_balanced(journal)
        raise LedgerRefusedError(f"trade {trades[n].trade_id} moves nothing")
