"""The policy: what a text of it means, whichever release wrote it."""

from __future__ import annotations

import pytest

from engine.canonical import sha256_jcs
from engine.close.policy import CORE_GATES, Policy
from engine.errors import ConfigError


def test_a_policy_written_before_a_field_existed_keeps_its_hash() -> None:
    text = {"v": "policy/1", "reporting_currency": "USDT", "mark_max_age_s": 7200, "required_gates": list(CORE_GATES)}
    read = Policy.parse(text)
    assert read.sha256 == sha256_jcs(text)
    assert read.as_dict() == text
    assert read.chunks == Policy("USDT").chunks


def test_a_new_policy_writes_every_field_down() -> None:
    new = Policy("USDT")
    assert Policy.parse(new.as_dict()) == new
    assert Policy.parse(new.as_dict()).sha256 == new.sha256
    assert "written" not in new.as_dict()


@pytest.mark.parametrize(
    "extra",
    [
        {"written": ["chunks"]},
        {"chunk": 2},
        {"mark_max_age_s": 0},
        {"required_gates": []},
        {"personal_logins": "false"},
        {"kyc_required": 0},
        {"alert_pause_s": True},
        {"screening_lists": [["sdn:ofac"]]},
        {"fee_tiers": {}},
        {"staking_asset": ["ETH"]},
    ],
)
def test_a_key_or_value_that_no_release_wrote_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Policy.parse({"v": "policy/1", "reporting_currency": "USDT", **extra})
