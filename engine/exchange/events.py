"""What the engine emits: the events that the ledger settles, in sequence order.

What belongs here: frozen records of what happened, in integers.
What does not: how a command is decided (see `engine`), and how an event becomes legs (see `ledger`).

Amounts are smallest units of their asset; `account`, `asset` and `market` are the engine's numeric ids, whose
names are in the engine's registry. `close_day` is the close date as days since 1970, decided by the last
cut-off before the event in the journal. Times are microseconds since 1970, UTC.

What an order's command emits is a `NamedTuple`: a frozen dataclass of twenty fields takes 3 µs to make, ten times as
long. They have different numbers of fields, so that no two kinds are ever equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Side(IntEnum):
    """Which side of the book an order is on."""

    BUY = 0
    SELL = 1


class TransferKind(IntEnum):
    """A movement of one customer's balance that is not a trade."""

    OPENING = 1
    """Genesis: an opening balance of day zero."""
    DEPOSIT = 2
    WITHDRAWAL = 3
    """Requested: available -> in transit."""
    WITHDRAWAL_CONFIRMED = 4
    WITHDRAWAL_FAILED = 5
    """In transit -> available."""
    STAKE = 6
    """Available -> staked."""
    UNSTAKE = 7
    """Staked -> available."""
    REWARD = 8
    ADJUST = 9
    """An approved correction; its units may be negative."""
    DEPOSIT_REVERSED = 10
    """A deposit that is gone: available -> outside, and what is not available -> a debt of the account."""
    DEPOSIT_UNALLOCATED = 11
    """Coins that arrived for an account whose state receives nothing: the house holds them, no balance moves."""
    UNALLOCATED_REVERSED = 12
    """Such coins are gone again."""


class RejectReason(IntEnum):
    """Why a journalled command was refused."""

    UNKNOWN_ACCOUNT = 1
    UNKNOWN_MARKET = 2
    UNKNOWN_ASSET = 3
    UNKNOWN_ORDER = 4
    INVALID_PRICE = 5
    INVALID_QUANTITY = 6
    INSUFFICIENT_FUNDS = 7
    DUPLICATE_REFERENCE = 8
    UNKNOWN_WITHDRAWAL = 9
    NOT_THE_OWNER = 10
    INVALID_CONFIGURATION = 11
    INVALID_CUT_OFF = 12
    TOO_LARGE = 13
    ACCOUNT_MAY_NOT_TRADE = 14
    ACCOUNT_MAY_NOT_WITHDRAW = 15
    ACCOUNT_ON_HOLD = 16
    ACCOUNT_MAY_NOT_RECEIVE = 17
    BELOW_MIN_QUANTITY = 18
    ABOVE_MAX_QUANTITY = 19
    BELOW_MIN_NOTIONAL = 20
    PRICE_OUTSIDE_BAND = 21
    NO_REFERENCE_PRICE = 22
    WOULD_TAKE = 23
    """A post-only order that would match."""
    NOT_FILLABLE = 24
    """A fill-or-kill order that the book cannot fill whole."""
    REFERENCE_CONFLICT = 25
    """A known reference with another payload; with the same it is DUPLICATE_REFERENCE."""
    STALE_REFERENCE = 26
    """A venue price that is not newer than the one known."""
    PRICE_ABOVE_RESERVE = 27
    """A bid amended beyond the price that it reserved funds at."""
    UNKNOWN_DEPOSIT = 28
    """A reversal of a deposit that never was, or of another account, asset or amount."""
    TIER_ROWS_MISMATCH = 29
    """A row of tiers that is not the next one of its batch, or a batch that is not what is staged."""


class Trade(NamedTuple):
    """One fill. `price_ticks` is the maker's; fees are in the quote asset, negative for a rebate."""

    trade_id: int
    engine_seq: int
    fill_index: int
    close_day: int
    sequenced_us: int
    effective_us: int
    market: int
    price_ticks: int
    quantity_lots: int
    base_units: int
    quote_units: int
    taker_side: Side
    maker_account: int
    taker_account: int
    maker_order_id: int
    taker_order_id: int
    maker_fee_units: int
    taker_fee_units: int
    maker_rate_ppm: int
    taker_rate_ppm: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """One movement of an account's balance; `reference` is its idempotency key.

    Of a reversed deposit's `units`, `owed_units` were no longer available and are owed by the account.
    """

    kind: TransferKind
    engine_seq: int
    close_day: int
    sequenced_us: int
    effective_us: int
    account: int
    asset: int
    units: int
    reference: str
    owed_units: int = 0


@dataclass(frozen=True, slots=True)
class CutOff:
    """The barrier of a close date: everything after it belongs to a later one."""

    engine_seq: int
    close_day: int
    sequenced_us: int


@dataclass(frozen=True, slots=True)
class Marked:
    """A marker was passed: settled up to here and no further, the ledger is at the sequence that it is compared at."""

    engine_seq: int
    close_day: int
    sequenced_us: int


@dataclass(frozen=True, slots=True)
class AssetListed:
    """An asset became known."""

    engine_seq: int
    asset: int
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class MarketListed:
    """A market became known; a notional is price_ticks x quantity_lots x quote_units_per_tick_lot, exactly."""

    engine_seq: int
    market: int
    symbol: str
    base: int
    quote: int
    base_units_per_lot: int
    quote_units_per_tick_lot: int


@dataclass(frozen=True, slots=True)
class AccountOpened:
    """An account became known."""

    engine_seq: int
    account: int
    name: str


class OrderAccepted(NamedTuple):
    """An order passed every check and locked its funds."""

    engine_seq: int
    order_id: int
    account: int
    market: int


class OrderCancelled(NamedTuple):
    """An order, or the rest of one, left the book and its lock was released."""

    engine_seq: int
    order_id: int
    account: int
    market: int
    quantity_lots: int


@dataclass(frozen=True, slots=True)
class OrderReduced:
    """Lots were taken off a resting order, which keeps its place; their lock was released."""

    engine_seq: int
    order_id: int
    account: int
    market: int
    quantity_lots: int
    left_lots: int


@dataclass(frozen=True, slots=True)
class OrderAmended:
    """An order left its place and came again with this limit and rest; what it then did follows."""

    engine_seq: int
    order_id: int
    account: int
    market: int
    price_ticks: int
    quantity_lots: int


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """What an account may do changed; `state` and `holds` are those of `commands`."""

    engine_seq: int
    account: int
    state: int
    may_trade: bool
    may_withdraw: bool
    holds: int


@dataclass(frozen=True, slots=True)
class MarketChanged:
    """The limits of a market changed."""

    engine_seq: int
    market: int
    revision: int


@dataclass(frozen=True, slots=True)
class TierSet:
    """A fee tier's rates from here on, in parts per million."""

    engine_seq: int
    close_day: int
    sequenced_us: int
    tier: int
    maker_rate_ppm: int
    taker_rate_ppm: int


@dataclass(frozen=True, slots=True)
class AccountTierSet:
    """The fee tier of an account from here on."""

    engine_seq: int
    close_day: int
    sequenced_us: int
    account: int
    tier: int


@dataclass(frozen=True, slots=True)
class TiersSet:
    """A batch of tiers from here on: (tier, maker, taker) in parts per million, and (tier, accounts in it)."""

    engine_seq: int
    close_day: int
    sequenced_us: int
    rates: tuple[tuple[int, int, int], ...]
    accounts: tuple[tuple[int, tuple[int, ...]], ...]


class Rejected(NamedTuple):
    """A journalled command that changed nothing."""

    engine_seq: int
    reason: RejectReason
    account: int


@dataclass(frozen=True, slots=True)
class CommandAnswered:
    """What became of a command that the database may have asked for: `accepted`, or the reason in small letters.

    The engine does not emit it: whoever settles a journal adds it to a command's events (see `requests`).
    """

    engine_seq: int
    kind: str
    reference: str
    outcome: str


Event = (
    Trade
    | Transfer
    | CutOff
    | Marked
    | AssetListed
    | MarketListed
    | MarketChanged
    | AccountOpened
    | AccountChanged
    | TierSet
    | AccountTierSet
    | TiersSet
    | OrderAccepted
    | OrderCancelled
    | OrderReduced
    | OrderAmended
    | Rejected
    | CommandAnswered
)
