"""Worked examples of others: fee tiers of Vega and dYdX, and rounding."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.close.policy import Policy
from engine.fees.tiers import schedule_of, tier_of
from engine.money import fee_units

DYDX = (
    ("0", 100, 500),
    ("1000000", 100, 450),
    ("5000000", 50, 400),
    ("25000000", 0, 350),
    ("125000000", 0, 300),
)
"""30-day volume in USD, maker and taker in parts per million (docs.dydx.exchange, trading fees)."""


@pytest.mark.parametrize(
    ("volume", "tier"), [("22353", 2), ("20000", 2), ("19999.999999", 1), ("30000", 3), ("9999", 0), ("0", 0)]
)
def test_vega_0084_running_volume_reaches_a_tier_inclusively(volume: str, tier: int) -> None:
    # 10k -> .001, 20k -> .005, 30k -> .010: a volume of 22,353 earns .005.
    schedule = schedule_of((("0", 0, 10_000), ("10000", 0, 9_000), ("20000", 0, 5_000), ("30000", 0, 0)))
    assert tier_of(Decimal(volume), schedule) == tier


@pytest.mark.parametrize(
    ("volume", "maker", "taker"),
    [
        ("999999.99", 100, 500),
        ("1000000", 100, 450),
        ("5000000", 50, 400),
        ("24999999.999999999999999999", 50, 400),
        ("25000000", 0, 350),
        ("125000000", 0, 300),
        ("999999999999", 0, 300),
    ],
)
def test_dydx_schedule_is_data(volume: str, maker: int, taker: int) -> None:
    schedule = schedule_of(Policy("USDC", fee_tiers=DYDX).fee_tiers)
    found = schedule[tier_of(Decimal(volume), schedule)]
    assert (found.maker_rate_ppm, found.taker_rate_ppm) == (maker, taker)


def test_vega_0029_a_quarter_of_a_unit_is_a_whole_one() -> None:
    assert fee_units(1, 250_000) == 1


def test_rebate_of_a_quarter_is_none() -> None:
    assert fee_units(1, -250_000) == 0
    assert fee_units(7, -250_000) == -1
