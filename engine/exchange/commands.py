"""The commands that the exchange journals: everything that can change its state.

What belongs here: frozen records of what was asked, in integers, and the range that a command can be written in.
What does not: whether a command is allowed (see `engine`), and its bytes (see `codec`).

`effective_us` is when the thing happened outside (microseconds since 1970, UTC); None means when it is sequenced.
It is information: the day and the order of a command are decided by its sequence alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from engine.exchange.events import Side


class TimeInForce(IntEnum):
    """What becomes of the part of an order that does not match at once."""

    GTC = 0
    """It rests until it is filled or cancelled."""
    IOC = 1
    """It is cancelled."""


@dataclass(frozen=True, slots=True)
class SetAsset:
    """List an asset. `asset` is 1 to 65,535; `decimals` at most 18."""

    asset: int
    symbol: str
    decimals: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class SetMarket:
    """List a market; a notional is price_ticks x quantity_lots x quote_units_per_tick_lot, always whole."""

    market: int
    symbol: str
    base: int
    quote: int
    base_units_per_lot: int
    quote_units_per_tick_lot: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Open an account under a number and a name of 1 to 64 of `a-z`, `0-9` and `-`."""

    account: int
    name: str
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class SetTiers:
    """Set every account's fee rates from this sequence on, in parts per million; a negative maker rate is a rebate."""

    maker_rate_ppm: int
    taker_rate_ppm: int
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
class NewOrder:
    """A limit order; its order id is its sequence. `reference` (may be empty) is unique per account for two days."""

    account: int
    market: int
    side: Side
    price_ticks: int
    quantity_lots: int
    tif: TimeInForce
    reference: str = ""
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Cancel a resting order of one's own."""

    account: int
    order_id: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class CutOff:
    """The barrier of a close date (days since 1970); only the sequencer writes it."""

    close_day: int
    effective_us: int | None = None


TransferCommand = OpeningBalance | Deposit | Withdrawal | WithdrawalConfirmed | WithdrawalFailed
Command = SetAsset | SetMarket | OpenAccount | SetTiers | TransferCommand | NewOrder | CancelOrder | CutOff
