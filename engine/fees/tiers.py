"""Fee tiers: a schedule of thresholds over the 30-day volume, and the tier that a volume is in.

What belongs here: reading a schedule, refusing one that is not one, and looking a volume up.
What does not: volumes (one statement in the database), and rates in force (the engine has them from its journal).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from engine.errors import ConfigError, InputError
from engine.money import parse_decimal

MAX_RATE_PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier: from this volume on (inclusive, reporting currency), rates in parts per million."""

    number: int
    threshold: Decimal
    maker_rate_ppm: int
    taker_rate_ppm: int


def schedule_of(rows: Sequence[Any]) -> tuple[Tier, ...]:
    """Read a schedule: (threshold as decimal text, maker ppm, taker ppm) a tier, tier 0 first, from threshold 0 on.

    Raises:
        ConfigError: thresholds overlap or are not ascending, the first is not 0, or rates are such that the engine
            would refuse them: a taker's beyond 0 to 100 %, a maker's beyond ± the taker's, a rebate of one tier above
            the taker fee of another.
    """
    tiers: list[Tier] = []
    for number, row in enumerate(rows):
        tiers.append(_tier(number, row))
        if number == 0 and tiers[0].threshold != 0:
            raise _refusal(
                f"tier 0 begins at {tiers[0].threshold}", "tier 0 begins at 0, so that every volume has a tier"
            )
        if number and tiers[number].threshold <= tiers[number - 1].threshold:
            raise _refusal(
                f"tier {number} begins at {tiers[number].threshold}, the one before at {tiers[number - 1].threshold}",
                "thresholds ascend, none twice: tiers do not overlap",
            )
    for one in tiers:
        for other in tiers:
            if one.maker_rate_ppm + other.taker_rate_ppm < 0:
                raise _refusal(
                    f"the rebate of tier {one.number} exceeds the taker fee of tier {other.number}",
                    "a rebate never pays out what no trade brought in",
                )
    return tuple(tiers)


def tier_of(volume: Decimal, schedule: Sequence[Tier]) -> int:
    """The tier of a volume: the last whose threshold it reaches; thresholds are inclusive."""
    return bisect_right(schedule, volume, key=lambda tier: tier.threshold) - 1


def _tier(number: int, row: Any) -> Tier:
    if not isinstance(row, list | tuple) or len(row) != 3 or type(row[1]) is not int or type(row[2]) is not int:
        raise _refusal(f"tier {number} is {row!r}", "a tier is [threshold as text, maker ppm, taker ppm]")
    threshold, maker, taker = row
    try:
        reached = parse_decimal(threshold, record=f"threshold of tier {number}")
    except InputError as error:
        raise _refusal(error.what, error.rule) from None
    if reached < 0 or not 0 <= taker <= MAX_RATE_PPM or not -taker <= maker <= taker:
        raise _refusal(f"tier {number} is {row!r}", "0 <= taker <= 1,000,000 ppm, and the maker's within ± the taker's")
    return Tier(number, reached, maker, taker)


def _refusal(what: str, rule: str) -> ConfigError:
    return ConfigError(f"the policy's fee_tiers: {what}", rule=rule, next_step="correct the policy file")
