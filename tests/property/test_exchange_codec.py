"""Every command survives its 160 bytes, and no bit of them can change unseen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.exchange import codec
from engine.exchange import commands as cmd
from engine.exchange.events import Side

u16 = st.integers(0, 2**16 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
amounts = st.integers(0, 2**127 - 1)
times = st.none() | i64
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
symbols = st.from_regex(r"[A-Z0-9][A-Z0-9_-]{0,9}(\.[A-Z0-9_-]{1,10}){0,2}", fullmatch=True)
names = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)
u32 = st.integers(0, 2**32 - 1)
TRANSFERS = (
    cmd.OpeningBalance,
    cmd.Deposit,
    cmd.DepositReversed,
    cmd.Withdrawal,
    cmd.WithdrawalConfirmed,
    cmd.WithdrawalFailed,
    cmd.Stake,
    cmd.Unstake,
    cmd.Reward,
)
limits = st.builds(cmd.MarketLimits, u64, u64, amounts, u32, u32, i64, u64)
states = st.sampled_from(list(cmd.AccountState))
holds = st.builds(cmd.Hold, st.integers(0, sum(cmd.Hold)))

commands = st.one_of(
    st.builds(cmd.SetAsset, u16, symbols, u32, times),
    st.builds(cmd.SetMarket, u16, symbols, u16, u16, amounts, i64, times, limits),
    st.builds(cmd.OpenAccount, u64, names, times),
    st.builds(cmd.SetTier, i64, i64, times, u16, st.just("") | texts),
    st.builds(cmd.StageTier, u64, u32, u16, i64, i64, times),
    st.builds(cmd.StageAccountTiers, u64, u32, u16, st.lists(u64, min_size=1, max_size=12).map(tuple), times),
    st.builds(cmd.SetTiers, u64, u32, u32, st.binary(min_size=32, max_size=32).map(bytes.hex), texts, times),
    st.builds(cmd.SetAccountTier, u64, u16, texts, times),
    st.builds(cmd.SetAccount, u64, states, st.booleans(), st.booleans(), holds, texts, times),
    st.builds(cmd.SetReference, u16, i64, times, st.just("") | texts),
    st.builds(cmd.Adjust, u64, u16, amounts | amounts.map(lambda n: -n), texts, times),
    *(st.builds(kind, u64, u16, amounts, texts, times) for kind in TRANSFERS),
    st.builds(
        cmd.NewOrder,
        u64,
        u16,
        st.sampled_from(list(Side)),
        i64,
        i64,
        st.sampled_from(list(cmd.TimeInForce)),
        st.just("") | texts,
        times,
        st.integers(0, 2**63 - 1),
    ),
    st.builds(cmd.CancelOrder, u64, u64, times),
    st.builds(cmd.CancelAll, u64, u16, times, st.just("") | texts),
    st.builds(cmd.ReduceOrder, u64, u64, i64, times),
    st.builds(cmd.AmendOrder, u64, u64, i64, i64, times),
    st.builds(cmd.CutOff, i64, times),
    st.builds(cmd.Marker, texts, times),
)


@given(u64, i64, commands, u32)
@settings(max_examples=500, deadline=None)
def test_command_survives_its_record_exactly(seq: int, ts_us: int, command: cmd.Command, previous: int) -> None:
    raw, record = codec.encode(seq, ts_us, command, previous)
    assert len(raw) == codec.RECORD_BYTES
    assert codec.is_good(raw, seq, previous)
    assert codec.decode(raw) == record
    assert record.command == command
    assert record.effective_us == (ts_us if command.effective_us is None else command.effective_us)


@given(u64, i64, commands, u32, st.integers(0, codec.RECORD_BYTES * 8 - 1))
@settings(max_examples=500, deadline=None)
def test_no_bit_of_a_record_can_change_unseen(
    seq: int, ts_us: int, command: cmd.Command, previous: int, bit: int
) -> None:
    raw, _ = codec.encode(seq, ts_us, command, previous)
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    assert not codec.is_good(bytes(damaged), seq, previous)


@given(commands, st.integers(max(codec.Kind) + 1, 255))
def test_kind_of_a_later_version_is_not_guessed(command: cmd.Command, kind: int) -> None:
    raw, _ = codec.encode(1, 1, command, 0)
    later = bytearray(raw)
    later[codec.KIND_OFFSET] = kind
    with pytest.raises(ValueError, match=r"later version"):
        codec.decode(bytes(later))


@pytest.mark.parametrize(
    "command",
    [
        cmd.StageAccountTiers(1, 0, 2, ()),
        cmd.StageAccountTiers(1, 0, 2, (7,) * 13),
        cmd.StageAccountTiers(1, 0, 2, (2**64,)),
        cmd.StageTier(2**64, 0, 2, 1, 1),
        cmd.StageTier(1, 2**32, 2, 1, 1),
        cmd.SetTiers(1, 1, 1, "0" * 63, "t"),
        cmd.SetTiers(1, 1, 1, "A" * 64, "t"),
        cmd.SetTiers(1, 1, 1, "0" * 64, ""),
    ],
    ids=["no account", "13 accounts", "account", "batch", "row", "short digest", "digest", "no reference"],
)
def test_batch_of_tiers_that_fits_no_record_is_refused(command: cmd.Command) -> None:
    with pytest.raises(InputError):
        codec.encode(1, 1, command, 0)


def test_row_of_tiers_of_more_accounts_than_it_can_hold_is_not_guessed() -> None:
    raw, _ = codec.encode(1, 1, cmd.StageAccountTiers(1, 0, 2, (7,)), 0)
    for count in (0, 13):
        with pytest.raises(ValueError, match="a row of"):
            codec.decode(raw[:32] + count.to_bytes(4, "little") + raw[36:])
