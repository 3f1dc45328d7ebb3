"""What the engine knows: the registry, balances, references, books and counters.

What belongs here: the containers and the sums over them.
What does not: how a command changes them (see `configuration`, `transfers`, `orders`).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

from engine.exchange.book import Book
from engine.exchange.commands import NO_LIMITS, AccountState, Hold, MarketLimits, Withdrawal
from engine.exchange.events import RejectReason
from engine.exchange.staged import StagedTiers
from engine.money import MAX_DECIMALS, MAX_DIGITS

MAX_TICKS = 2**63 - 1
AVAILABLE, LOCKED, STAKED, IN_TRANSIT = 0, 1, 2, 3
"""Places in a balance: a list, because an order touches four of them and a frozen record would cost more than it."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A listed asset; amounts of it are integers of 10^-decimals."""

    asset: int
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Market:
    """A listed market; a notional is price_ticks x quantity_lots x quote_units_per_tick_lot.

    `most_ticks` is the highest price that the books can hold: what a registry knows of the assets decides it.
    """

    market: int
    symbol: str
    base: int
    quote: int
    base_units_per_lot: int
    quote_units_per_tick_lot: int
    limits: MarketLimits = NO_LIMITS
    most_ticks: int = field(default=MAX_TICKS, compare=False)


@dataclass(frozen=True, slots=True)
class Account:
    """An open account, and what it may do."""

    account: int
    name: str
    state: AccountState = AccountState.ACTIVE
    may_trade: bool = True
    may_withdraw: bool = True
    holds: Hold = Hold.NONE


@dataclass(frozen=True, slots=True)
class VenuePrice:
    """A venue's price of a market, and when it came (by the sequencer) and was (at the venue)."""

    price_ticks: int
    sequenced_us: int
    effective_us: int


class KeyKind(IntEnum):
    """Whose idempotency key a reference is, beside those of `TransferKind`; a number is never used again."""

    SET_ACCOUNT = 101
    SET_TIER = 102
    SET_ACCOUNT_TIER = 103
    SET_TIERS = 104


class UsedKey(NamedTuple):
    """What a reference stood for: the sequence of its effect, and enough of the payload to tell another one."""

    seq: int
    account: int
    asset: int
    value: int

    def refusal(self, known: UsedKey) -> RejectReason:
        """Why a command with a known reference is refused: all but the sequence may be equal."""
        return RejectReason.DUPLICATE_REFERENCE if self[1:] == known[1:] else RejectReason.REFERENCE_CONFLICT


class UsedOrderKey(NamedTuple):
    """What a client reference of an order stood for."""

    seq: int
    market: int
    side: int
    tif: int
    price_ticks: int
    quantity_lots: int
    reserve_price_ticks: int

    def refusal(self, known: UsedOrderKey) -> RejectReason:
        """Why an order with the reference of a known one is refused: all but the sequence may be equal."""
        return RejectReason.DUPLICATE_REFERENCE if self[1:] == known[1:] else RejectReason.REFERENCE_CONFLICT


@dataclass(frozen=True, slots=True)
class Balance:
    """One account's holding of one asset, in smallest units."""

    account: int
    asset: int
    available: int
    locked: int
    staked: int
    in_transit: int

    @property
    def total(self) -> int:
        """Everything that the exchange owes this account in this asset."""
        return self.available + self.locked + self.staked + self.in_transit


@dataclass(slots=True)
class Registry:
    """Assets, markets and accounts, by number and by name."""

    assets: dict[int, Asset] = field(default_factory=dict)
    markets: dict[int, Market] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    asset_by_symbol: dict[str, Asset] = field(default_factory=dict)
    market_by_symbol: dict[str, Market] = field(default_factory=dict)
    account_by_name: dict[str, Account] = field(default_factory=dict)

    def unlisted_market(self) -> int:
        """A number that no market has."""
        return next(number for number in range(2**16 - 1, 0, -1) if number not in self.markets)

    def add_asset(self, asset: Asset) -> None:
        """List an asset that is not there."""
        self.assets[asset.asset] = asset
        self.asset_by_symbol[asset.symbol] = asset

    def add_market(self, market: Market) -> None:
        """List a market that is not there, or with other limits."""
        market = replace(market, most_ticks=self.most_ticks(market))
        self.markets[market.market] = market
        self.market_by_symbol[market.symbol] = market

    def most_ticks(self, market: Market) -> int:
        """The highest price that the books can hold, in ticks; 0 where they cannot hold that of one tick."""
        base, quote = self.assets[market.base].decimals, self.assets[market.quote].decimals
        # A tick is quote_units_per_tick_lot / 10^quote for base_units_per_lot / 10^base.
        above, below = market.quote_units_per_tick_lot * int(10**base), market.base_units_per_lot * int(10**quote)
        if above * int(10**MAX_DECIMALS) % below:
            return 0
        return min(MAX_TICKS, (int(10**MAX_DIGITS) * below - 1) // above)

    def add_account(self, account: Account) -> None:
        """Open an account that is not there, or with other rights."""
        self.accounts[account.account] = account
        self.account_by_name[account.name] = account


@dataclass
class EngineState:
    """Everything that a command can depend on or change.

    Attributes:
        first_day: first close date, days since 1970; the day before it is genesis.
        open_day: the close date that events belong to now.
        tiers: maker and taker rates in parts per million, by tier.
        account_tiers: tier by account; one that is not there is in tier 0.
        staged: rows of a batch of tiers whose end has not come.
        transfers: idempotency keys, (kind, reference) -> what they stood for; kept for ever.
        order_references: client references of orders by account, of the open day, of the one before, and older ones
            whose order rested at the last cut-off: a day's cost must not grow with history, so others are forgotten.
        order_market: market of each resting order.
        account_orders: ids of each account's resting orders.
        withdrawals: those in transit, by reference.
        external: per asset, what came in minus what left.
        adjustments: per asset, rewards and corrections credited minus those taken.
        unallocated: per asset, coins that came for accounts that may receive nothing, less those that went back; they
            are in no balance, and count only towards what the books can hold.
        owed: by account and asset, what an account owes since a deposit was reversed that it had spent.
        last_prices: per market, the price of the last trade.
        references: per market, the venue price known.
    """

    first_day: int
    open_day: int
    registry: Registry = field(default_factory=Registry)
    last_seq: int = 0
    last_crc: int = 0
    last_ts_us: int = 0
    next_trade_id: int = 1
    tiers: dict[int, tuple[int, int]] = field(default_factory=dict)
    account_tiers: dict[int, int] = field(default_factory=dict)
    staged: StagedTiers | None = None
    balances: MutableMapping[tuple[int, int], list[int]] = field(default_factory=dict)
    fees: dict[int, int] = field(default_factory=dict)
    external: dict[int, int] = field(default_factory=dict)
    adjustments: dict[int, int] = field(default_factory=dict)
    unallocated: dict[int, int] = field(default_factory=dict)
    owed: dict[tuple[int, int], int] = field(default_factory=dict)
    transfers: dict[tuple[int, str], UsedKey] = field(default_factory=dict)
    withdrawals: dict[str, Withdrawal] = field(default_factory=dict)
    order_references: list[dict[tuple[int, str], UsedOrderKey]] = field(default_factory=lambda: [{}, {}, {}])
    books: dict[int, Book] = field(default_factory=dict)
    order_market: dict[int, int] = field(default_factory=dict)
    account_orders: dict[int, set[int]] = field(default_factory=dict)
    last_prices: dict[int, int] = field(default_factory=dict)
    references: dict[int, VenuePrice] = field(default_factory=dict)

    @property
    def in_genesis(self) -> bool:
        """Whether the cut-off of day zero is still to come."""
        return self.open_day < self.first_day

    @property
    def tiers_set(self) -> bool:
        """Whether the rates of tier 0 were ever set."""
        return 0 in self.tiers

    @property
    def maker_rate_ppm(self) -> int:
        """The maker rate of tier 0."""
        return self.tiers.get(0, (0, 0))[0]

    @property
    def taker_rate_ppm(self) -> int:
        """The taker rate of tier 0."""
        return self.tiers.get(0, (0, 0))[1]

    def rates(self, account: int) -> tuple[int, int]:
        """Maker and taker rate of an open account, in parts per million."""
        return self.tiers.get(self.account_tiers.get(account, 0), (0, 0))

    def row(self, account: int, asset: int) -> list[int]:
        """The changeable balance of an account in an asset, made when it is not there."""
        key = (account, asset)
        row = self.balances.get(key)
        if row is None:
            row = self.balances[key] = [0, 0, 0, 0]
        return row

    def known_order(self, account: int, reference: str) -> UsedOrderKey | None:
        """What a client reference stands for; None where it is free."""
        for references in self.order_references:
            known = references.get((account, reference))
            if known is not None:
                fresh = references is not self.order_references[-1] or known.seq in self.order_market
                return known if fresh else None
        return None

    def held(self, asset: int) -> int:
        """What all holdings and fees of an asset must come to: a debt of an account stands for coins that are gone."""
        return self.external[asset] + self.adjustments[asset] + self.owed_in(asset)

    def owed_in(self, asset: int) -> int:
        """What accounts owe in an asset."""
        return sum(units for (_, of), units in self.owed.items() if of == asset)
