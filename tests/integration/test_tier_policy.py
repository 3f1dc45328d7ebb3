"""A policy whose tiers overlap is refused: where it is read, and by the database."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from engine.close.policy import Policy
from engine.errors import ConfigError
from tests.fixtures.books import BookUnderTest

OVERLAPPING: list[Any] = [
    [["0", 1, 2], ["10", 1, 2], ["10", 1, 1]],
    [["0", 1, 2], ["20", 1, 2], ["10", 1, 1]],
    [["5", 1, 2]],
]


@pytest.mark.parametrize("tiers", OVERLAPPING, ids=["twice", "unsorted", "not from zero"])
def test_policy_file_with_overlapping_tiers_is_refused(sealed_book: BookUnderTest, tiers: list[Any]) -> None:
    file = {"v": "policy/1", "reporting_currency": "USDT", "fee_tiers": tiers}
    with pytest.raises(ConfigError, match="fee_tiers"):
        Policy.parse(file)
    text = json.dumps({**Policy("USDT").as_dict(), "fee_tiers": tiers})
    with sealed_book.admin() as owner, pytest.raises(psycopg.errors.CheckViolation, match="tiers_ascend"):
        owner.execute(
            "INSERT INTO close.policies (effective_from, policy, policy_sha256, actor, reason)"
            " VALUES ('2099-01-01', %s, repeat('0', 64), 'test', 'test')",
            (text,),
        )


@pytest.mark.parametrize(
    "tiers",
    [
        [["0", 1]],
        [["0", 1, 2, 3]],
        ["0"],
        [[0, 1, 2]],
        [["0", "1", 2]],
        [["0", True, 2]],
        [["-1", 1, 2]],
        [["NaN", 1, 2]],
        [["0", 3, 2]],
        [["0", -3, 2]],
        [["0", 0, 1_000_001]],
        [["0", 0, 5], ["1", -6, 7]],
        [["0", 1.5, 2]],
    ],
)
def test_what_is_no_schedule_is_refused_by_name(tiers: list[Any]) -> None:
    with pytest.raises(ConfigError, match="fee_tiers"):
        Policy.parse({"v": "policy/1", "reporting_currency": "USDT", "fee_tiers": tiers})


@pytest.mark.parametrize(
    "changes",
    [
        {"staking_funding_ppm": 1_000_001},
        {"staking_payout_ppm": -1},
        {"reward_cap": "-1"},
        {"reward_cap": "much"},
        {"reward_cap_ppm": -1},
        {"reward_cap_ppm": "1"},
    ],
)
def test_rule_of_a_pot_that_cannot_be_used_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"staking_|reward_"):
        Policy("USDT", staking_asset="QTRA", **changes)


def test_a_policy_that_knows_no_marks_tiers_or_rewards_means_as_before() -> None:
    old = Policy.parse({"v": "policy/1", "reporting_currency": "USDT"})
    assert (old.mark_sources, old.fee_tiers, old.staking_asset) == (("last_trade",), (), "")
