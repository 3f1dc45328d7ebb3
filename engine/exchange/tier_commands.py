"""The commands by which a close's tiers enter the exchange: rows without effect, then all of them at one sequence.

What belongs here: the three records (`commands` hands them on with all others).
What does not: what they do (see `configuration`), how rows wait (see `staged`), their bytes (see `tier_records`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageTier:
    """Row `row` of a batch of tiers: the rates of one tier. Without effect until `SetTiers`; row 0 begins a batch."""

    batch: int
    row: int
    tier: int
    maker_rate_ppm: int
    taker_rate_ppm: int
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class StageAccountTiers:
    """Row `row` of a batch of tiers: 1 to 12 accounts that move to one tier."""

    batch: int
    row: int
    tier: int
    accounts: tuple[int, ...]
    effective_us: int | None = None


@dataclass(frozen=True, slots=True)
class SetTiers:
    """Put every staged row of a batch in force at this sequence, or none of them; `reference` is the idempotency key.

    `tiers` and `accounts` are how many the rows must hold, `sha256` is their digest (see `staged`).
    """

    batch: int
    tiers: int
    accounts: int
    sha256: str
    reference: str
    effective_us: int | None = None


TierRow = StageTier | StageAccountTiers
