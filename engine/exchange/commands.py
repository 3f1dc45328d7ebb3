"""The commands that the exchange journals: everything that can change its state.

What belongs here: frozen records of what was asked, in integers, and the range that a command can be written in.
What does not: whether a command is allowed (see `engine`), and its bytes (see `codec`).

`effective_us` is when the thing happened outside (microseconds since 1970, UTC); None means when it is sequenced.
It is information: the day and the order of a command are decided by its sequence alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from engine.exchange.events import Side
from engine.exchange.tier_commands import SetTiers, StageAccountTiers, StageTier, TierRow

__all__ = ["SetTiers", "StageAccountTiers", "StageTier", "TierRow"]
"""Handed on; everything else here is public as well."""


class TimeInForce(IntEnum):
    """How an order meets the book, and what becomes of the part of it that does not match at once."""

    GTC = 0
    """It rests until it is filled or cancelled."""
    IOC = 1
    """It is cancelled."""
    FOK = 2
    """There is none: the order is filled whole at once, or refused before anything moves."""
    POST_ONLY = 3
    """The whole order rests; it is refused where any of it would match."""
    MARKET = 4
    """It is cancelled; how far the order goes is bounded by the reference price, and by its own price if it has one."""


class AccountState(IntEnum):
    """The eight states of an account."""

    PENDING_KYC = 1
    KYC_APPROVED = 2
    KYC_REJECTED = 3
    ACTIVE = 4
    SUSPENDED = 5
    RESTRICTED = 6
    BANNED = 7
    CLOSED = 8


class Hold(IntFlag):
    """Why withdrawals of an account are held, whatever its state."""

    NONE = 0
    BREAK = 1
    SANCTIONS = 2
    DISPUTE = 4
    LEGAL = 8
    CLOSURE = 16


@dataclass(frozen=True, slots=True)
class MarketLimits:
    """What orders of a market are checked against; 0 sets no limit.

    Attributes:
        min_quantity_lots: least quantity of an order.
        max_quantity_lots: most quantity of an order.
        min_notional_units: least notional, in smallest quote units.
        band_ppm: how far a limit price may lie from the reference price, either way, in parts per million of it.
        slippage_ppm: how far a market order goes beyond the reference price; 0: not at all.
        reference_max_age_us: for how long a venue price counts, by the sequencer's clock.
        revision: a change must carry a higher one than the limits in force.
    """

    min_quantity_lots: int = 0
    max_quantity_lots: int = 0
    min_notional_units: int = 0
    band_ppm: int = 0
    slippage_ppm: int = 0
    reference_max_age_us: int = 0
    revision: int = 0


NO_LIMITS = MarketLimits()


@dataclass(frozen=True, slots=True)
class SetAsset:
    """List an asset. `asset` is 1 to 65,535; `decimals` at most 18."""

    asset: int
    symbol: str
    decimals: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class SetMarket:
    """List a market, or change the limits of a listed one.

    A notional is price_ticks x quantity_lots x quote_units_per_tick_lot, always whole; once listed, only limits change.
    """

    market: int
    symbol: str
    base: int
    quote: int
    base_units_per_lot: int
    quote_units_per_tick_lot: int
    effective_us: int | None = None
    limits: MarketLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class SetReference:
    """A venue's price of a market, used while there is no trade of our own; `effective_us` must grow.

    `reference` (may be empty) names the request that it answers; a price that comes again is stale anyway.
    """

    market: int
    price_ticks: int
    effective_us: int | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Open an account under a number and a name of 1 to 64 of `a-z`, `0-9` and `-`; it is active, with every right."""

    account: int
    name: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class SetAccount:
    """What an account may do from this sequence on; `reference` is its idempotency key.

    `holds` keep withdrawals back whatever `may_withdraw` says. Cancels are always allowed.
    """

    account: int
    state: AccountState
    may_trade: bool
    may_withdraw: bool
    holds: Hold
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class SetTier:
    """Set the fee rates of one tier from this sequence on, in parts per million; a negative maker rate is a rebate.

    Tier 0 is everybody's until `SetAccountTier` says otherwise. `reference` (may be empty) is an idempotency key.
    """

    maker_rate_ppm: int
    taker_rate_ppm: int
    effective_us: int | None = None
    tier: int = 0
    reference: str = ""


@dataclass(frozen=True, slots=True)
class SetAccountTier:
    """Put an account into a tier that is set; `reference` is the idempotency key."""

    account: int
    tier: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class OpeningBalance:
    """A balance of day zero; only before the first cut-off."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Deposit:
    """Credit coins that custody confirmed; `reference` is its idempotency key."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class DepositReversed:
    """The deposit of this reference is gone (its block was reorganised away); account, asset and units are its own.

    What of it is still available is taken; the rest becomes a debt of the account, which goes on hold. Funds
    that rest in orders are not touched: `CancelAll` before it frees them.
    """

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Ask for coins to leave: available -> in transit; `reference` names the withdrawal from now on."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class WithdrawalConfirmed:
    """The withdrawal of this reference left; account, asset and units must be those of the request."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class WithdrawalFailed:
    """The withdrawal of this reference did not leave: in transit -> available."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Stake:
    """Available -> staked; the total stays."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Unstake:
    """Staked -> available; the total stays."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Reward:
    """Credit a reward that the close has computed and owes."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Adjust:
    """An approved correction of a balance: `units` are added, or taken where negative; never below zero."""

    account: int
    asset: int
    units: int
    reference: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order; its order id is its sequence.

    `reference` (may be empty) is unique per account for the open day and the one before, and while the order rests.

    `price_ticks` is the limit. A market order may leave it 0, or give the worst price that it accepts. A bid with a
    `reserve_price_ticks` locks at that price, and can be amended up to it without locking more; 0 is none.
    """

    account: int
    market: int
    side: Side
    price_ticks: int
    quantity_lots: int
    tif: TimeInForce
    reference: str = ""
    effective_us: int | None = None
    reserve_price_ticks: int = 0


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Cancel a resting order of one's own."""

    account: int
    order_id: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class CancelAll:
    """Cancel every resting order of an account, in one market or (0) in all.

    `reference` (may be empty) names the request that it answers; a cancel of nothing is no error.
    """

    account: int
    market: int = 0
    effective_us: int | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class ReduceOrder:
    """Take so many lots off a resting order of one's own; it keeps its place, and ends where nothing is left."""

    account: int
    order_id: int
    quantity_lots: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class AmendOrder:
    """Give a resting order of one's own another limit and rest; it keeps its id and loses its place."""

    account: int
    order_id: int
    price_ticks: int
    quantity_lots: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class CutOff:
    """The barrier of a close date (days since 1970); only the sequencer writes it."""

    close_day: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class Marker:
    """A sequence at which engine and ledger are compared while trading goes on; it changes nothing.

    `reference` (may be empty) names the request that it answers.
    """

    reference: str = ""
    effective_us: int | None = None


TransferCommand = (
    OpeningBalance
    | Deposit
    | DepositReversed
    | Withdrawal
    | WithdrawalConfirmed
    | WithdrawalFailed
    | Stake
    | Unstake
    | Reward
    | Adjust
)
ConfigurationCommand = (
    SetAsset | SetMarket | SetReference | OpenAccount | SetAccount | SetTier | SetAccountTier | TierRow | SetTiers
)
OrderCommand = NewOrder | CancelOrder | CancelAll | ReduceOrder | AmendOrder
Command = ConfigurationCommand | TransferCommand | OrderCommand | CutOff | Marker
