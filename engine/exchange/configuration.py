"""Commands that configure the exchange: assets, markets, accounts, tiers, venue prices; the cut-off and the marker.

What belongs here: what makes a configuration valid, and what it adds to the registry.
What does not: money (see `transfers`, `orders`).
"""

from __future__ import annotations

from dataclasses import replace

from engine.exchange import commands as cmd
from engine.exchange.book import Book
from engine.exchange.codec import JournalRecord
from engine.exchange.events import (
    AccountChanged,
    AccountOpened,
    AccountTierSet,
    AssetListed,
    CutOff,
    Event,
    Marked,
    MarketChanged,
    MarketListed,
    Rejected,
    RejectReason,
    TierSet,
    TiersSet,
)
from engine.exchange.staged import StagedTiers
from engine.exchange.state import Account, Asset, EngineState, KeyKind, Market, UsedKey, VenuePrice
from engine.ledger.journal import NOT_FOR_USERS
from engine.money import MAX_DECIMALS

MAX_RATE_PPM = 1_000_000
_MASK = 2**64 - 1


def set_asset(state: EngineState, record: JournalRecord, command: cmd.SetAsset) -> list[Event]:
    """List an asset under a free number and symbol."""
    registry = state.registry
    taken = command.asset in registry.assets or command.symbol in registry.asset_by_symbol
    if taken or command.asset == 0 or command.decimals > MAX_DECIMALS:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    registry.add_asset(Asset(command.asset, command.symbol, command.decimals))
    state.fees[command.asset] = 0
    state.external[command.asset] = 0
    state.adjustments[command.asset] = 0
    return [AssetListed(record.seq, command.asset, command.symbol, command.decimals)]


def set_market(state: EngineState, record: JournalRecord, command: cmd.SetMarket) -> list[Event]:
    """List a market of two listed assets whose tick x lot is a whole number of quote units, or change its limits."""
    registry = state.registry
    if command.base not in registry.assets or command.quote not in registry.assets:
        return [Rejected(record.seq, RejectReason.UNKNOWN_ASSET, 0)]
    market = Market(
        command.market,
        command.symbol,
        command.base,
        command.quote,
        command.base_units_per_lot,
        command.quote_units_per_tick_lot,
        command.limits,
    )
    there = registry.markets.get(command.market)
    if there is not None and replace(there, limits=command.limits) == market:
        return _change_limits(state, record, there, market)
    taken = there is not None or command.symbol in registry.market_by_symbol
    whole = command.base_units_per_lot >= 1 and command.quote_units_per_tick_lot >= 1
    wrong = taken or command.market == 0 or command.base == command.quote or not whole
    if wrong or not _are_limits(command.limits) or not registry.most_ticks(market):
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    registry.add_market(market)
    state.books[command.market] = Book()
    return [
        MarketListed(
            record.seq,
            market.market,
            market.symbol,
            market.base,
            market.quote,
            market.base_units_per_lot,
            market.quote_units_per_tick_lot,
        )
    ]


def _change_limits(state: EngineState, record: JournalRecord, there: Market, market: Market) -> list[Event]:
    """Put limits of a higher revision in force; resting orders stay as they are."""
    if market.limits.revision <= there.limits.revision:
        same = market.limits == there.limits
        return [
            Rejected(record.seq, RejectReason.DUPLICATE_REFERENCE if same else RejectReason.INVALID_CONFIGURATION, 0)
        ]
    if not _are_limits(market.limits):
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    state.registry.add_market(market)
    return [MarketChanged(record.seq, market.market, market.limits.revision)]


def _are_limits(limits: cmd.MarketLimits) -> bool:
    ordered = limits.max_quantity_lots == 0 or limits.min_quantity_lots <= limits.max_quantity_lots
    shares = 0 <= limits.band_ppm <= MAX_RATE_PPM and 0 <= limits.slippage_ppm <= MAX_RATE_PPM
    return ordered and shares and limits.reference_max_age_us >= 0


def set_reference(state: EngineState, record: JournalRecord, command: cmd.SetReference) -> list[Event]:
    """Keep a venue's price that is newer (at the venue) than the one known."""
    if command.market not in state.registry.markets:
        return [Rejected(record.seq, RejectReason.UNKNOWN_MARKET, 0)]
    if command.price_ticks <= 0:
        return [Rejected(record.seq, RejectReason.INVALID_PRICE, 0)]
    known = state.references.get(command.market)
    if known is not None and record.effective_us <= known.effective_us:
        return [Rejected(record.seq, RejectReason.STALE_REFERENCE, 0)]
    state.references[command.market] = VenuePrice(command.price_ticks, record.ts_us, record.effective_us)
    return []


def open_account(state: EngineState, record: JournalRecord, command: cmd.OpenAccount) -> list[Event]:
    """Open an account under a free number and name; one that is the house's could never be settled."""
    registry = state.registry
    taken = command.account in registry.accounts or command.name in registry.account_by_name
    if command.account == 0 or taken or command.name in NOT_FOR_USERS:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, command.account)]
    registry.add_account(Account(command.account, command.name))
    return [AccountOpened(record.seq, command.account, command.name)]


def _used(state: EngineState, kind: KeyKind, reference: str, key: UsedKey) -> RejectReason | None:
    """Why a reference cannot be used; None if it can."""
    known = state.transfers.get((kind, reference))
    return None if known is None else key.refusal(known)


def set_account(state: EngineState, record: JournalRecord, command: cmd.SetAccount) -> list[Event]:
    """Put an account's state, rights and holds in force; only an active or restricted one may trade."""
    account = state.registry.accounts.get(command.account)
    if account is None:
        return [Rejected(record.seq, RejectReason.UNKNOWN_ACCOUNT, command.account)]
    rights = command.state | command.may_trade << 8 | command.may_withdraw << 9 | int(command.holds) << 16
    key = UsedKey(record.seq, command.account, 0, rights)
    reason = _used(state, KeyKind.SET_ACCOUNT, command.reference, key)
    if reason is not None:
        return [Rejected(record.seq, reason, command.account)]
    if command.may_trade and command.state not in (cmd.AccountState.ACTIVE, cmd.AccountState.RESTRICTED):
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, command.account)]
    state.transfers[KeyKind.SET_ACCOUNT, command.reference] = key
    state.registry.add_account(
        replace(
            account,
            state=command.state,
            may_trade=command.may_trade,
            may_withdraw=command.may_withdraw,
            holds=command.holds,
        )
    )
    return [account_changed(record.seq, state.registry.accounts[command.account])]


def account_changed(seq: int, account: Account) -> AccountChanged:
    """What an account may do after a sequence, as an event."""
    return AccountChanged(
        seq, account.account, account.state, account.may_trade, account.may_withdraw, int(account.holds)
    )


def set_tier(state: EngineState, record: JournalRecord, command: cmd.SetTier) -> list[Event]:
    """Set a tier's rates from here on: 0 ≤ taker ≤ 100 %, and the maker's within ± the taker's.

    A rebate above the taker fee, also that of another tier, would pay out what no trade brought in; a maker fee above
    it would exceed the lock.
    """
    maker, taker = command.maker_rate_ppm, command.taker_rate_ppm
    if not _are_rates(maker, taker):
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    key = UsedKey(record.seq, command.tier, 0, (maker & _MASK) | taker << 64)
    if command.reference:
        reason = _used(state, KeyKind.SET_TIER, command.reference, key)
        if reason is not None:
            return [Rejected(record.seq, reason, 0)]
    others = [rates for tier, rates in state.tiers.items() if tier != command.tier]
    if any(maker + rates[1] < 0 or rates[0] + taker < 0 for rates in others):
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    if command.reference:
        state.transfers[KeyKind.SET_TIER, command.reference] = key
    state.tiers[command.tier] = (maker, taker)
    return [TierSet(record.seq, state.open_day, record.ts_us, command.tier, maker, taker)]


def _are_rates(maker: int, taker: int) -> bool:
    return 0 <= taker <= MAX_RATE_PPM and -taker <= maker <= taker


def set_account_tier(state: EngineState, record: JournalRecord, command: cmd.SetAccountTier) -> list[Event]:
    """Put an account into a tier that is set."""
    if command.account not in state.registry.accounts:
        return [Rejected(record.seq, RejectReason.UNKNOWN_ACCOUNT, command.account)]
    key = UsedKey(record.seq, command.account, 0, command.tier)
    reason = _used(state, KeyKind.SET_ACCOUNT_TIER, command.reference, key)
    if reason is None and command.tier not in state.tiers:
        reason = RejectReason.INVALID_CONFIGURATION
    if reason is not None:
        return [Rejected(record.seq, reason, command.account)]
    state.transfers[KeyKind.SET_ACCOUNT_TIER, command.reference] = key
    state.account_tiers[command.account] = command.tier
    return [AccountTierSet(record.seq, state.open_day, record.ts_us, command.account, command.tier)]


def stage(state: EngineState, record: JournalRecord, command: cmd.TierRow) -> list[Event]:
    """Keep the next row of a batch of tiers, without effect; row 0 discards what an unfinished batch left."""
    if command.row == 0:
        state.staged = StagedTiers(command.batch)
    staged = state.staged
    if staged is None or (command.batch, command.row) != (staged.batch, len(staged.rows)):
        return [Rejected(record.seq, RejectReason.TIER_ROWS_MISMATCH, 0)]
    staged.add(command)
    return []


def set_tiers(state: EngineState, record: JournalRecord, command: cmd.SetTiers) -> list[Event]:
    """Put a staged batch in force, all of it or nothing; whatever was staged is gone then."""
    staged, state.staged = state.staged, None
    key = UsedKey(record.seq, command.batch, 0, int(command.sha256[:32], 16))
    reason = _used(state, KeyKind.SET_TIERS, command.reference, key)
    if reason is not None:
        return [Rejected(record.seq, reason, 0)]
    if staged is None or not staged.is_what(command):
        return [Rejected(record.seq, RejectReason.TIER_ROWS_MISMATCH, 0)]
    rates, moved = staged.rates, staged.accounts
    tiers = state.tiers | {tier: (maker, taker) for tier, maker, taker in rates}
    known = state.registry.accounts
    for tier, accounts in moved:
        for account in accounts:
            if account not in known:
                return [Rejected(record.seq, RejectReason.UNKNOWN_ACCOUNT, account)]
        if tier not in tiers:
            return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    whole = all(_are_rates(maker, taker) for _, maker, taker in rates)
    # No rebate of any tier above the taker fee of any: whoever meets whom, a trade brings in what it pays out.
    if not whole or min(maker for maker, _ in tiers.values()) + min(taker for _, taker in tiers.values()) < 0:
        return [Rejected(record.seq, RejectReason.INVALID_CONFIGURATION, 0)]
    state.transfers[KeyKind.SET_TIERS, command.reference] = key
    state.tiers = tiers
    for tier, accounts in moved:
        state.account_tiers.update(dict.fromkeys(accounts, tier))
    return [TiersSet(record.seq, state.open_day, record.ts_us, rates, moved)]


def cut_off(state: EngineState, record: JournalRecord, command: cmd.CutOff) -> list[Event]:
    """End the open day; only the open day can be ended."""
    if command.close_day != state.open_day:
        return [Rejected(record.seq, RejectReason.INVALID_CUT_OFF, 0)]
    state.open_day += 1
    today, before, older = state.order_references
    rests = {key: one for kept in (older, before) for key, one in kept.items() if one.seq in state.order_market}
    state.order_references = [{}, today, rests]
    return [CutOff(record.seq, command.close_day, record.ts_us)]


def mark(state: EngineState, record: JournalRecord, command: cmd.Marker) -> list[Event]:
    """Nothing changes: the sequence itself is what the marker is for."""
    return [Marked(record.seq, state.open_day, record.ts_us)]
