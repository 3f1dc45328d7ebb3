"""The exchange engine: commands in sequence order in, events out, nothing else.

What belongs here: the dispatch of a record, and the questions that others ask of the state.
What does not: how each command works (see `configuration`, `transfers`, `orders`), files and clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import GateError
from engine.exchange import commands as cmd
from engine.exchange import configuration, orders, transfers
from engine.exchange.book import Order
from engine.exchange.codec import JournalRecord
from engine.exchange.events import Event, Side, TransferKind
from engine.exchange.locks import lock_of
from engine.exchange.state import Balance, EngineState, Registry

_HANDLERS: dict[type, Callable[[EngineState, JournalRecord, Any], list[Event]]] = {
    cmd.SetAsset: configuration.set_asset,
    cmd.SetMarket: configuration.set_market,
    cmd.OpenAccount: configuration.open_account,
    cmd.SetTier: configuration.set_tier,
    cmd.StageTier: configuration.stage,
    cmd.StageAccountTiers: configuration.stage,
    cmd.SetTiers: configuration.set_tiers,
    cmd.SetReference: configuration.set_reference,
    cmd.SetAccount: configuration.set_account,
    cmd.SetAccountTier: configuration.set_account_tier,
    cmd.CutOff: configuration.cut_off,
    cmd.Marker: configuration.mark,
    cmd.OpeningBalance: transfers.transfer,
    cmd.Deposit: transfers.transfer,
    cmd.DepositReversed: transfers.reverse_deposit,
    cmd.Withdrawal: transfers.transfer,
    cmd.WithdrawalConfirmed: transfers.transfer,
    cmd.WithdrawalFailed: transfers.transfer,
    cmd.Stake: transfers.transfer,
    cmd.Unstake: transfers.transfer,
    cmd.Reward: transfers.transfer,
    cmd.Adjust: transfers.transfer,
    cmd.NewOrder: orders.new_order,
    cmd.CancelOrder: orders.cancel_order,
    cmd.CancelAll: orders.cancel_all,
    cmd.ReduceOrder: orders.reduce_order,
    cmd.AmendOrder: orders.amend_order,
}


class ExchangeEngine:
    """A deterministic exchange: the same records give the same events and the same state, anywhere."""

    def __init__(self, first_day: int, *, state: EngineState | None = None) -> None:
        """Start empty in genesis (the day before `first_day`, in days since 1970), or from a state."""
        self.state = state if state is not None else EngineState(first_day=first_day, open_day=first_day - 1)

    def apply(self, record: JournalRecord) -> list[Event]:
        """Apply the next record; whatever is wrong with it is a `Rejected` event."""
        state = self.state
        state.last_seq = record.seq
        state.last_ts_us = record.ts_us
        state.last_crc = record.crc
        return _HANDLERS[type(record.command)](state, record, record.command)

    @property
    def registry(self) -> Registry:
        """Assets, markets and accounts, by number and name."""
        return self.state.registry

    @property
    def last_seq(self) -> int:
        """The last applied sequence, 0 for none."""
        return self.state.last_seq

    @property
    def last_ts_us(self) -> int:
        """The sequencer's time of the last record."""
        return self.state.last_ts_us

    @property
    def open_day(self) -> int:
        """The close date that events belong to now, as days since 1970; genesis is the day before the first."""
        return self.state.open_day

    @property
    def first_day(self) -> int:
        """The first close date, as days since 1970."""
        return self.state.first_day

    def balance(self, account: int, asset: int) -> Balance:
        """One account's holding of one asset; zeros where there was never any."""
        row = self.state.balances.get((account, asset), (0, 0, 0, 0))
        return Balance(account, asset, row[0], row[1], row[2], row[3])

    def balances(self) -> Iterator[Balance]:
        """Every holding that is not all zero, by account and asset number."""
        for (account, asset), row in sorted(self.state.balances.items()):
            if any(row):
                yield Balance(account, asset, row[0], row[1], row[2], row[3])

    def fees(self, asset: int) -> int:
        """Fees collected less rebates paid in an asset, ever."""
        return self.state.fees.get(asset, 0)

    def external_flows(self, asset: int) -> int:
        """What came in less what left in an asset, ever."""
        return self.state.external.get(asset, 0)

    def adjustments(self, asset: int) -> int:
        """Rewards and corrections credited less those taken in an asset, ever."""
        return self.state.adjustments.get(asset, 0)

    def owed(self, asset: int) -> int:
        """What accounts owe in an asset since deposits were reversed that they had spent."""
        return self.state.owed_in(asset)

    def best(self, market: int, side: Side) -> Order | None:
        """The first order in line on a side of a market."""
        book = self.state.books.get(market)
        return None if book is None else book.best(side)

    def order(self, order_id: int) -> Order | None:
        """A resting order; None when it is filled, cancelled or never was."""
        market = self.state.order_market.get(order_id)
        return None if market is None else self.state.books[market].orders[order_id]

    def resting(self) -> Iterator[tuple[int, Order]]:
        """Every resting order with its market: by market, bids before asks, best price first, oldest first."""
        for market in sorted(self.state.books):
            for side in (Side.BUY, Side.SELL):
                for order in self.state.books[market].queue(side):
                    yield market, order

    def seen_transfer(self, kind: int, reference: str) -> int | None:
        """The sequence at which a transfer of this kind and reference had its effect."""
        key = self.state.transfers.get((kind, reference))
        return None if key is None else key.seq

    def lacks_rows(self, command: cmd.SetTiers) -> bool:
        """Whether rows of a batch of tiers have yet to be staged; rows that are too many or wrong are refused."""
        staged = self.state.staged
        if staged is None or staged.batch != command.batch:
            return True
        tiers, accounts = staged.counts
        return tiers < command.tiers or accounts < command.accounts

    def cancels_before(self, command: cmd.Command) -> cmd.CancelAll | None:
        """What is submitted before a reversal where orders hold what it takes: coins that are gone must not trade.

        None for every other command, and for a reversal that is known: the orders there came after it.
        """
        if not isinstance(command, cmd.DepositReversed):
            return None
        known = self.seen_transfer(TransferKind.DEPOSIT_REVERSED, command.reference) is not None
        held = self.balance(command.account, command.asset)
        frees = held.locked and held.available < command.units
        return cmd.CancelAll(command.account) if frees and not known else None

    def check_conservation(self) -> None:
        """Check that per asset all holdings plus fees equal what came in less what left, adjustments, and debts.

        Raises:
            GateError: they differ, or a balance is negative.
        """
        sums = dict(self.state.fees)
        for (account, asset), row in self.state.balances.items():
            if min(row) < 0:
                raise GateError(f"engine: account {account}, asset {asset} holds {row}", rule="no balance is negative")
            sums[asset] += sum(row)
        for asset, held in sums.items():
            due = self.state.held(asset)
            if held != due:
                raise GateError(
                    f"engine: asset {asset} after sequence {self.last_seq}: {held} units held and collected, "
                    f"{due} came in, difference {held - due}",
                    rule="available + locked + staked + in transit + fees = external flows + adjustments + owed",
                    next_step="stop trading; replay the journal to find the command",
                )

    def check_locks(self) -> None:
        """Check that per account and asset the locked balance is what its resting orders lock.

        Raises:
            GateError: they differ.
        """
        locks: dict[tuple[int, int], int] = {}
        for number, order in self.resting():
            market = self.registry.markets[number]
            key = (order.account, market.quote if order.side == Side.BUY else market.base)
            locks[key] = locks.get(key, 0) + lock_of(market, order)
        for key, row in self.state.balances.items():
            if row[1] != locks.pop(key, 0):
                raise GateError(f"engine: account {key[0]}, asset {key[1]} locks {row[1]}, its orders differ")
        if locks:
            raise GateError(f"engine: orders without a lock: {sorted(locks)[:5]}")
