"""Commands that configure the exchange: assets, markets, accounts, tiers, and the cut-off.

What belongs here: what makes a configuration valid, and what it adds to the registry.
What does not: money (see `transfers`, `orders`).
"""

from __future__ import annotations

from engine.exchange import commands as cmd
from engine.exchange.book import Book
from engine.exchange.codec import JournalRecord
from engine.exchange.events import (
    AccountOpened,
    AssetListed,
    CutOff,
    Event,
    MarketListed,
    Rejected,
    RejectReason,
)
from engine.exchange.state import Account, Asset, EngineState, Market
from engine.money import MAX_DECIMALS

MAX_RATE_PPM = 1_000_000


def set_asset(state: EngineState, record: JournalRecord, command: cmd.SetAsset) -> list[Event]:
    """List an asset under a free number and symbol."""
    registry = state.registry
    taken = command.asset in registry.assets or command.symbol in registry.asset_by_symbol
    if taken or command.asset == 0 or command.decimals > MAX_DECIMALS:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    registry.add_asset(Asset(command.asset, command.symbol, command.decimals))
    state.fees[command.asset] = 0
    state.external[command.asset] = 0
    return [AssetListed(record.seq, command.asset, command.symbol, command.decimals)]


def set_market(state: EngineState, record: JournalRecord, command: cmd.SetMarket) -> list[Event]:
    """List a market of two listed assets whose tick x lot is a whole number of quote units."""
    registry = state.registry
    if command.base not in registry.assets or command.quote not in registry.assets:
        return [Rejected(record.seq, RejectReason.UNKNOWN_ASSET, 0)]
    taken = command.market in registry.markets or command.symbol in registry.market_by_symbol
    whole = command.base_units_per_lot >= 1 and command.quote_units_per_tick_lot >= 1
    if taken or command.market == 0 or command.base == command.quote or not whole:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    fields = (
        command.market,
        command.symbol,
        command.base,
        command.quote,
        command.base_units_per_lot,
        command.quote_units_per_tick_lot,
    )
    registry.add_market(Market(*fields))
    state.books[command.market] = Book()
    return [MarketListed(record.seq, *fields)]


def open_account(state: EngineState, record: JournalRecord, command: cmd.OpenAccount) -> list[Event]:
    """Open an account under a free number and name."""
    registry = state.registry
    if command.account == 0 or command.account in registry.accounts or command.name in registry.account_by_name:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, command.account)]
    registry.add_account(Account(command.account, command.name))
    return [AccountOpened(record.seq, command.account, command.name)]


def set_tiers(state: EngineState, record: JournalRecord, command: cmd.SetTiers) -> list[Event]:
    """Set the rates from here on: 0 ≤ taker ≤ 100 %, and the maker's within ± the taker's.

    A rebate above the taker fee would pay out what no trade brought in; a maker fee above it would exceed the lock.
    """
    maker, taker = command.maker_rate_ppm, command.taker_rate_ppm
    if not 0 <= taker <= MAX_RATE_PPM or not -taker <= maker <= taker:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    state.maker_rate_ppm = maker
    state.taker_rate_ppm = taker
    state.tiers_set = True
    return []


def cut_off(state: EngineState, record: JournalRecord, command: cmd.CutOff) -> list[Event]:
    """End the open day; only the open day can be ended."""
    if command.close_day != state.open_day:
        return [Rejected(record.seq, RejectReason.INVALID_CUT_OFF, 0)]
    state.open_day += 1
    state.order_references = [{}, state.order_references[0]]
    return [CutOff(record.seq, command.close_day, record.ts_us)]
