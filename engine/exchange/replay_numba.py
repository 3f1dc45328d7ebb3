"""A journal replayed by the kernel, with the online engine's own code for everything that is not an order.

What belongs here: the walk over the records, handing balances to and fro.
What does not: the arrays (see `replay_world`), and what an order does (see `kernels.replay`).

Deposits, withdrawals, configuration and cut-offs are rare and carry names and idempotency keys; the kernel stops before
one, `ExchangeEngine` applies it to a state whose balances are the kernel's arrays, and the kernel goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.exchange import codec
from engine.exchange import commands as cmd
from engine.exchange.collector import paused
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import CutOff, Rejected, Side, Trade
from engine.exchange.kernels import replay_arrays as column
from engine.exchange.kernels.replay import run
from engine.exchange.kernels.replay_records import first_strange
from engine.exchange.replay_world import Balances, ReplayWorld
from engine.exchange.state import EngineState

_BITS = 64
_ORDERS = frozenset(
    (
        codec.Kind.NEW_ORDER,
        codec.Kind.CANCEL_ORDER,
        codec.Kind.CANCEL_ALL,
        codec.Kind.REDUCE_ORDER,
        codec.Kind.AMEND_ORDER,
    )
)
_ACCOUNT_COMMANDS = (cmd.OpenAccount, cmd.SetAccount, cmd.SetAccountTier)
_SHARED = (cmd.SetAsset, cmd.SetMarket, cmd.SetReference, cmd.SetTier, cmd.SetTiers)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay by the kernel gave.

    Attributes:
        engine: the state after the last record, as the online engine holds it.
        reasons: `RejectReason` of each record, 0 for none.
    """

    engine: ExchangeEngine
    reasons: npt.NDArray[np.uint8]
    _run: Run

    @property
    def trade_count(self) -> int:
        """How many trades there were."""
        return self.engine.state.next_trade_id - 1

    def trades(self) -> Iterator[Trade]:
        """Every trade, in order."""
        return self._run.trades()


class Run:
    """One replay under way.

    Args:
        first_day: the journal's first close date, days since 1970.
        raw: [records, 160] bytes whose chain has been checked.
    """

    def __init__(self, first_day: int, raw: npt.NDArray[np.uint8]) -> None:
        self.raw = raw
        self.arrays = ReplayWorld(raw)
        self.state = EngineState(first_day, first_day - 1, balances=Balances(self.arrays))
        self.engine = ExchangeEngine(first_day, state=self.state)
        self.first_day = first_day
        self.cuts: list[int] = []
        self.done = 0
        self.arrays.world.counters[column.GENESIS] = 1

    def advance(self, until_day: int | None = None) -> None:
        """Apply every record, or those up to the cut-off of a day."""
        world = self.arrays.world
        kinds = self.raw[:, column.KIND_BYTE].tobytes()
        at, last = 0, int(first_strange(world))
        while at < last:
            # Not called before every record of a long configuration: handing over twenty arrays takes microseconds.
            if kinds[at] in _ORDERS:
                at = run(world, at, last)
                continue
            self._apply(at)
            at += 1
            if until_day is not None and self.state.open_day > until_day:
                break
        self.done = at
        if at == last < len(kinds):
            codec.decode(self.raw[at].tobytes())

    def _apply(self, at: int) -> None:
        """Have the online engine apply a record that is not an order's."""
        self.done = at
        record = codec.decode(self.raw[at].tobytes())
        events = self.engine.apply(record)
        for event in events:
            if isinstance(event, Rejected):
                self.arrays.world.reasons[at] = event.reason
            elif isinstance(event, CutOff):
                self.cuts.append(at)
                self.arrays.world.counters[column.GENESIS] = self.state.in_genesis
                self.arrays.world.counters[column.FRESH_FROM] = self.cuts[-2] if len(self.cuts) > 1 else 0
        if isinstance(record.command, _ACCOUNT_COMMANDS):
            if record.command.account in self.state.registry.accounts:
                self.arrays.load_account(self.state, record.command.account)
        elif isinstance(record.command, _SHARED):
            self.arrays.load(self.state)

    def finish(self) -> Replayed:
        """The state after the last record applied."""
        state = self.state
        if self.done:
            record = codec.decode(self.raw[self.done - 1].tobytes())
            state.last_seq, state.last_ts_us, state.last_crc = record.seq, record.ts_us, record.crc
        fresh = int(self.arrays.world.counters[column.FRESH_FROM])
        with paused():
            self.arrays.write_back(state, fresh, self.cuts[-1] if self.cuts else 0)
        return Replayed(self.engine, self.arrays.world.reasons[: self.done], self)

    def trades(self) -> Iterator[Trade]:
        """Every trade, in order."""
        world, arrays = self.arrays.world, self.arrays
        count = int(world.counters[column.TRADES])
        rows = world.trades[:count]
        days = self.first_day - 1 + np.searchsorted(np.array(self.cuts, np.int64), rows[:, column.T_SEQ] - 1)
        markets = [self.state.registry.markets[number] for number in arrays.markets.numbers]
        before, fill_index = 0, 0
        for index in range(count):
            row = rows[index].tolist()
            seq = row[column.T_SEQ]
            fill_index = fill_index + 1 if seq == before else 0
            before = seq
            market = markets[row[column.T_MARKET]]
            price, quantity = row[column.T_PRICE], row[column.T_QUANTITY]
            times = self.raw[seq - 1, 8:24].view(np.int64).tolist()
            yield Trade(
                trade_id=index + 1,
                engine_seq=seq,
                fill_index=fill_index,
                close_day=int(days[index]),
                sequenced_us=times[0],
                effective_us=times[1],
                market=market.market,
                price_ticks=price,
                quantity_lots=quantity,
                base_units=quantity * market.base_units_per_lot,
                quote_units=price * quantity * market.quote_units_per_tick_lot,
                taker_side=Side(row[column.T_SIDE]),
                maker_account=arrays.accounts.numbers[row[column.T_MAKER]],
                taker_account=arrays.accounts.numbers[row[column.T_TAKER]],
                maker_order_id=row[column.T_MAKER_ORDER],
                taker_order_id=row[column.T_TAKER_ORDER],
                maker_fee_units=_one(row[column.T_MAKER_FEE], row[column.T_MAKER_FEE_HIGH]),
                taker_fee_units=_one(row[column.T_TAKER_FEE], row[column.T_TAKER_FEE_HIGH]),
                maker_rate_ppm=row[column.T_MAKER_RATE],
                taker_rate_ppm=row[column.T_TAKER_RATE],
            )


def _one(low: int, high: int) -> int:
    """Two signed columns as one number."""
    return (low & 0xFFFF_FFFF_FFFF_FFFF) + (high << _BITS)


def replay_records(first_day: int, raw: npt.NDArray[np.uint8], until_day: int | None = None) -> Replayed:
    """Replay records whose chain has been checked.

    Raises:
        TooLargeError: the arrays would be too large.
        ValueError: a record is of a later version.
    """
    one = Run(first_day, raw)
    one.advance(until_day)
    return one.finish()
