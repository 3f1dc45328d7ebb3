"""A batch of tiers: rows without effect, then one command from whose sequence on all of it applies, or nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from engine.clock import CutOffRule, from_day_number
from engine.exchange import commands as cmd
from engine.exchange import snapshot
from engine.exchange.errors import SnapshotCorruptError
from engine.exchange.events import CutOff, RejectReason, TiersSet, Trade
from engine.exchange.sequencer import Sequencer, open_exchange
from tests.property.exchange_commands import batch_of
from tests.unit.test_exchange_engine import BTC, BUY, FIRST_DAY, OPENS_US, SELL, USDT, Exchange, reason_of

R = RejectReason
ROWS: list[cmd.TierRow] = [
    cmd.StageTier(7, 0, 0, 90, 900),
    cmd.StageTier(7, 1, 1, -50, 400),
    cmd.StageAccountTiers(7, 2, 1, (1, 2)),
]
END = batch_of(7, ROWS, "tiers:2026-03-02:1")


def stage(exchange: Exchange, rows: list[cmd.TierRow]) -> None:
    for row in rows:
        assert exchange.send(row) == []


def trade_of(exchange: Exchange, taker: int) -> Trade:
    (trade,) = (e for e in exchange.order(taker, BUY, 100, 10) if isinstance(e, Trade))
    return trade


def test_batch_applies_whole_from_its_own_sequence_and_orders_keep_the_rate_they_locked_at() -> None:
    exchange = Exchange()
    for account in (1, 2, 3):
        exchange.fund(account, USDT, 10**7)
        exchange.fund(account, BTC, 10**5)
    for _ in range(3):
        exchange.order(3, SELL, 100, 10)
    rests = exchange.order(1, BUY, 90, 10)[0].engine_seq
    locked = exchange.held(1, USDT)
    assert trade_of(exchange, 2).taker_rate_ppm == 1000
    stage(exchange, ROWS)
    assert trade_of(exchange, 2).taker_rate_ppm == 1000, "rows alone change nothing"
    (done,) = exchange.send(END)
    assert done == TiersSet(
        exchange.engine.last_seq,
        FIRST_DAY,
        OPENS_US + 10**6,
        ((0, 90, 900), (1, -50, 400)),
        ((1, (1, 2)),),
    )
    assert [exchange.engine.state.rates(n) for n in (1, 2, 3)] == [(-50, 400), (-50, 400), (90, 900)]
    assert trade_of(exchange, 2).taker_rate_ppm == 400
    order = exchange.engine.order(rests)
    assert order is not None
    assert (order.rate_ppm, exchange.held(1, USDT)) == (1000, locked)
    stage(exchange, ROWS)
    assert reason_of(exchange.send(END)) == R.DUPLICATE_REFERENCE
    stage(exchange, ROWS[:2])
    assert (
        reason_of(exchange.send(replace(batch_of(7, ROWS[:2], "x"), reference=END.reference))) == R.REFERENCE_CONFLICT
    )
    assert exchange.engine.state.staged is None


@pytest.mark.parametrize(
    ("rows", "end", "reason"),
    [
        ([], END, R.TIER_ROWS_MISMATCH),
        (ROWS[:2], END, R.TIER_ROWS_MISMATCH),
        (ROWS, replace(END, batch=8), R.TIER_ROWS_MISMATCH),
        (ROWS, replace(END, tiers=1), R.TIER_ROWS_MISMATCH),
        (ROWS, replace(END, accounts=1), R.TIER_ROWS_MISMATCH),
        (ROWS, replace(END, sha256=hashlib.sha256().hexdigest()), R.TIER_ROWS_MISMATCH),
        ([ROWS[0], cmd.StageAccountTiers(7, 1, 0, (1, 4))], None, R.UNKNOWN_ACCOUNT),
        ([ROWS[0], cmd.StageAccountTiers(7, 1, 6, (1,))], None, R.INVALID_CONFIGURATION),
        ([cmd.StageTier(7, 0, 0, 901, 900)], None, R.INVALID_CONFIGURATION),
        ([cmd.StageTier(7, 0, 0, 0, 1_000_001)], None, R.INVALID_CONFIGURATION),
        # Each tier's rates are possible; together a rebate would pay out what no trade brought in.
        ([cmd.StageTier(7, 0, 0, 10, 40), cmd.StageTier(7, 1, 1, -50, 60)], None, R.INVALID_CONFIGURATION),
    ],
)
def test_batch_that_is_not_what_is_staged_or_cannot_be_changes_nothing(
    rows: list[cmd.TierRow], end: cmd.SetTiers | None, reason: RejectReason
) -> None:
    exchange = Exchange()
    before = snapshot.pack(exchange.engine)[64:]
    stage(exchange, rows)
    assert reason_of(exchange.send(end or batch_of(7, rows, "end"))) == reason
    assert snapshot.pack(exchange.engine)[64:] == before, "all but the counters"
    stage(exchange, ROWS)
    assert isinstance(exchange.send(END)[0], TiersSet), "a refused batch can be asked for again"


def test_rates_that_would_be_refused_one_after_the_other_apply_as_a_whole() -> None:
    exchange = Exchange(-80, 1000)
    both: list[cmd.TierRow] = [cmd.StageTier(1, 0, 4, 0, 50), cmd.StageTier(1, 1, 0, -40, 60)]
    assert reason_of(exchange.send(cmd.SetTier(0, 50, None, 4))) == R.INVALID_CONFIGURATION
    stage(exchange, both)
    assert isinstance(exchange.send(batch_of(1, both, "t"))[0], TiersSet)


def test_row_out_of_its_place_is_refused_and_the_first_row_of_a_batch_discards_what_was_left() -> None:
    exchange = Exchange()
    assert reason_of(exchange.send(ROWS[1])) == R.TIER_ROWS_MISMATCH
    stage(exchange, ROWS[:1])
    assert reason_of(exchange.send(ROWS[2])) == R.TIER_ROWS_MISMATCH
    assert reason_of(exchange.send(replace(ROWS[1], batch=8))) == R.TIER_ROWS_MISMATCH
    stage(exchange, ROWS[1:])
    other: list[cmd.TierRow] = [cmd.StageTier(8, 0, 0, 1, 2)]
    stage(exchange, other)
    assert reason_of(exchange.send(END)) == R.TIER_ROWS_MISMATCH
    stage(exchange, other)
    exchange.send(batch_of(8, other, "other"))
    assert exchange.engine.state.tiers == {0: (1, 2)}


def world(sequencer: Sequencer) -> None:
    for command in (
        cmd.SetAsset(USDT, "USDT", 6),
        cmd.SetTier(100, 1000),
        *(cmd.OpenAccount(n, f"u-{n}") for n in (1, 2)),
    ):
        sequencer.submit(command, OPENS_US - 1)


@pytest.mark.parametrize("torn", [0, 1, 80, 159, 160, 320])
def test_kill_between_rows_and_their_command_leaves_no_effect_and_the_repeat_applies_once(
    tmp_path: Path, torn: int
) -> None:
    rule = CutOffRule(24, 0, "UTC")
    day = from_day_number(FIRST_DAY)
    with open_exchange(tmp_path, first_day=day, cutoff_rule=rule) as sequencer:
        world(sequencer)
        for row in ROWS:
            sequencer.submit(row, OPENS_US)
        path = sequencer.sink.path  # type: ignore[attr-defined]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - torn])
    with open_exchange(tmp_path, first_day=day, cutoff_rule=rule) as sequencer:
        state = sequencer.engine.state
        assert state.staged is not None
        assert len(state.staged.rows) == 3 - -(-torn // 160)
        assert (state.tiers, state.account_tiers) == ({0: (100, 1000)}, {})
        # The day ends while rows are staged: its snapshot holds them, and recovery starts from it.
        end = sequencer.cut_off(day)
        assert isinstance(end, CutOff)
    with open_exchange(tmp_path, first_day=day, cutoff_rule=rule) as sequencer:
        assert sequencer.engine.state.staged is not None
        if not torn:
            assert isinstance(sequencer.submit(END, OPENS_US)[0], TiersSet)
        else:
            for row in ROWS:
                sequencer.submit(row, OPENS_US)
            assert isinstance(sequencer.submit(END, OPENS_US)[0], TiersSet)
        for row in ROWS:
            sequencer.submit(row, OPENS_US)
        assert reason_of(sequencer.submit(END, OPENS_US)) == R.DUPLICATE_REFERENCE
        assert sequencer.engine.state.tiers == {0: (90, 900), 1: (-50, 400)}
        assert sequencer.engine.state.account_tiers == {1: 1, 2: 1}


def test_snapshots_of_earlier_formats_are_read_and_a_later_one_is_passed_over(tmp_path: Path) -> None:
    exchange = Exchange()
    exchange.send(cmd.SetTier(10, 20, None, 3))
    exchange.send(cmd.SetAccountTier(2, 3, "vip"))
    packed = snapshot.pack(exchange.engine)
    empty = 16  # no batch, no rows
    assert packed[-empty:] == bytes(empty)
    for version, body in ((3, packed[:-empty]), (4, packed)):
        data = packed[:8] + version.to_bytes(4, "little") + body[12:]
        (tmp_path / "one").write_bytes(data + hashlib.sha256(data).digest())
        again = snapshot.load(tmp_path / "one")
        assert snapshot.pack(again) == packed
        assert again.state.rates(2) == (10, 20)
    data = packed[:8] + (5).to_bytes(4, "little") + packed[12:]
    (tmp_path / "one").write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(SnapshotCorruptError):
        snapshot.load(tmp_path / "one")
