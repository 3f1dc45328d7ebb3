"""Time and days: the cut-off that the sequencer journals, recovery, and the past read back."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from engine.clock import CutOffRule, day_number, to_us
from engine.errors import InputError, UsageError
from engine.exchange import commands as cmd
from engine.exchange import history, snapshot, snapshots
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalLockedError, SnapshotCorruptError
from engine.exchange.events import CutOff, Event, Marked, Rejected, RejectReason, Side, Trade
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.live import dates_behind
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.exchange.snapshot import engine_state_hash

FIRST = date(2026, 3, 2)
UTC_MIDNIGHT = CutOffRule.parse("24:00 UTC")
BUY, SELL, GTC, IOC = Side.BUY, Side.SELL, cmd.TimeInForce.GTC, cmd.TimeInForce.IOC


def start(directory: Path, rule: CutOffRule = UTC_MIDNIGHT) -> Sequencer:
    """An exchange with a market, two funded accounts and a resting ask of account 1."""
    sequencer = open_exchange(directory, first_day=FIRST, cutoff_rule=rule)
    opens = to_us(rule.instant(FIRST - timedelta(days=1)))
    for command in (
        cmd.SetAsset(1, "USDT", 6),
        cmd.SetAsset(2, "BTC", 8),
        cmd.SetMarket(1, "BTC-USDT", 2, 1, 10, 3),
        cmd.SetTier(100, 1000),
        cmd.OpenAccount(1, "u-1"),
        cmd.OpenAccount(2, "u-2"),
    ):
        sequencer.submit(command, opens - 1)
    sequencer.submit(cmd.Deposit(1, 2, 10**6, "d1"), opens)
    sequencer.submit(cmd.Deposit(2, 1, 10**9, "d2"), opens)
    sequencer.submit(cmd.NewOrder(1, 1, SELL, 100, 1000, GTC), opens)
    sequencer.commit()
    return sequencer


def take(sequencer: Sequencer, at_us: int, *, effective_us: int | None = None) -> list[Event]:
    return sequencer.submit(cmd.NewOrder(2, 1, BUY, 100, 1, IOC, "", effective_us), at_us)


def trade_in(events: list[Event]) -> Trade:
    (trade,) = (event for event in events if isinstance(event, Trade))
    return trade


@pytest.mark.parametrize("rule", ["24:00 UTC", "16:00 America/New_York", "08:00 UTC"])
def test_trade_at_cutoff_belongs_to_next_day(tmp_path: Path, rule: str) -> None:
    cutoff = CutOffRule.parse(rule)
    with start(tmp_path, cutoff) as sequencer:
        instant = to_us(cutoff.instant(FIRST))
        before = take(sequencer, instant - 1)
        assert not any(isinstance(event, CutOff) for event in before)
        assert trade_in(before).close_day == day_number(FIRST)
        at = take(sequencer, instant)
        assert isinstance(at[0], CutOff)
        assert (at[0].close_day, at[0].sequenced_us) == (day_number(FIRST), instant)
        assert trade_in(at).close_day == day_number(FIRST) + 1
        assert trade_in(at).sequenced_us == instant


def test_late_command_keeps_its_own_time_and_belongs_to_the_open_day(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        instant = to_us(UTC_MIDNIGHT.instant(FIRST))
        take(sequencer, instant + 5)
        late = trade_in(take(sequencer, instant - 7, effective_us=instant - 7))
        assert late.close_day == day_number(FIRST) + 1
        assert (late.sequenced_us, late.effective_us) == (instant + 5, instant - 7)


def test_days_without_commands_are_cut_off_one_by_one(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        events = take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST + timedelta(days=3))) + 1)
        cuts = [event for event in events if isinstance(event, CutOff)]
        assert [c.close_day - day_number(FIRST) for c in cuts] == [0, 1, 2, 3]
        assert [c.sequenced_us for c in cuts] == [
            to_us(UTC_MIDNIGHT.instant(FIRST + timedelta(days=n))) for n in range(4)
        ]
        assert trade_in(events).close_day == day_number(FIRST) + 4


def test_cut_off_is_idempotent_in_order_and_never_early(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        with pytest.raises(UsageError, match="2026-03-02 is still open"):
            sequencer.cut_off(FIRST + timedelta(days=1))
        with pytest.raises(UsageError, match="has not come"):
            sequencer.cut_off(FIRST, at_us=to_us(UTC_MIDNIGHT.instant(FIRST)) - 1)
        event = sequencer.cut_off(FIRST, at_us=to_us(UTC_MIDNIGHT.instant(FIRST)))
        assert event is not None
        seq = sequencer.engine.last_seq
        assert sequencer.cut_off(FIRST) is None
        assert sequencer.engine.last_seq == seq == event.engine_seq
        with pytest.raises(UsageError):
            sequencer.submit(cmd.CutOff(day_number(FIRST) + 1), 0)


def test_cut_off_of_any_day_but_the_open_one_is_rejected_by_the_engine(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        record = sequencer.sink.append(cmd.CutOff(day_number(FIRST) + 1), sequencer.engine.last_ts_us)
        assert sequencer.engine.apply(record) == [Rejected(record.seq, RejectReason.INVALID_CUT_OFF, 0)]
    assert [one.close_date for one in history.cut_offs(tmp_path)] == [FIRST - timedelta(days=1)]


def test_reopened_exchange_is_the_same_and_goes_on(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST)))
        take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST)) + 1)
        expected = snapshot.pack(sequencer.engine)
    with open_exchange(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT) as again:
        assert snapshot.pack(again.engine) == expected
        assert trade_in(take(again, 0)).trade_id == 3
        with pytest.raises(JournalLockedError):
            open_exchange(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT)


def test_uncommitted_commands_of_a_killed_writer_are_gone_and_committed_ones_stay(tmp_path: Path) -> None:
    sequencer = start(tmp_path)
    seq = sequencer.engine.last_seq
    take(sequencer, 0)
    sequencer.sink.abandon()  # type: ignore[attr-defined]
    with open_exchange(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT) as again:
        assert again.engine.last_seq == seq


def test_state_at_cutoff_is_byte_equal_from_snapshot_and_from_replay(tmp_path: Path) -> None:
    days = [FIRST - timedelta(days=1), FIRST, FIRST + timedelta(days=1)]
    with start(tmp_path) as sequencer:
        for day in days[1:]:
            take(sequencer, to_us(UTC_MIDNIGHT.instant(day)) - 1)
            take(sequencer, to_us(UTC_MIDNIGHT.instant(day)))
    listed = history.cut_offs(tmp_path)
    assert [one.close_date for one in listed] == days
    states = [snapshot.pack(history.state_at_cutoff(tmp_path, day)) for day in days]
    for one in snapshots.listed(tmp_path):
        one.path.unlink()
    assert history.cut_offs(tmp_path) == listed
    assert [snapshot.pack(history.state_at_cutoff(tmp_path, day)) for day in days] == states
    with pytest.raises(InputError, match="2026-03-04 has not been cut off"):
        history.state_at_cutoff(tmp_path, FIRST + timedelta(days=2))


def test_damaged_or_foreign_snapshot_is_passed_over(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST)))
        expected = snapshot.pack(sequencer.engine)
    newest = snapshots.listed(tmp_path)[-1].path
    good = newest.read_bytes()
    for damaged in (good[:-1], bytes([*good[:500], good[500] ^ 1, *good[501:]]), b"", bytes(600)):
        newest.write_bytes(damaged)
        with pytest.raises(SnapshotCorruptError):
            snapshot.load(newest)
        with open_exchange(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT) as again:
            assert snapshot.pack(again.engine) == expected
        assert newest.read_bytes() == good, "recovery takes it again"
    # A well-formed snapshot of another history: its CRC is not the journal's.
    foreign = history.state_at_cutoff(tmp_path, FIRST)
    foreign.state.last_crc ^= 1
    foreign.state.row(1, 1)[0] += 5
    snapshot.save(foreign, newest)
    with open_exchange(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT) as again:
        assert snapshot.pack(again.engine) == expected


def test_snapshot_ahead_of_a_torn_journal_is_passed_over(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        before = snapshot.pack(sequencer.engine)
        seq = sequencer.engine.last_seq
        take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST)))
    path = journal_path(tmp_path)
    path.write_bytes(path.read_bytes()[: (seq + 1) * 160 + 30])
    with open_exchange(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT) as again:
        assert snapshot.pack(again.engine) == before


def test_events_from_any_sequence_are_those_of_the_first_run(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        for step in range(4):
            take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST)) - 2 + step)
        last = sequencer.engine.last_seq
        sequencer.commit()
        # A reader needs no lock.
        whole = list(history.events_from(tmp_path, 0))
    assert len(whole) == last
    for after in range(last + 1):
        assert list(history.events_from(tmp_path, after)) == whole[after:]
        assert list(history.events_from(tmp_path, after, last - 1)) == whole[after : last - 1]
    with history.events_from(tmp_path, last - 3) as stream:
        for events in stream:
            for event in events:
                if isinstance(event, Trade):
                    assert stream.registry.accounts[event.taker_account].name == "u-2"


def test_replay_gives_the_same_hash(tmp_path: Path) -> None:
    with start(tmp_path) as sequencer:
        take(sequencer, to_us(UTC_MIDNIGHT.instant(FIRST)))
        expected = engine_state_hash(sequencer.engine)
    engine = ExchangeEngine(day_number(FIRST))
    with JournalReader(journal_path(tmp_path)) as reader:
        for record in reader.records():
            engine.apply(record)
    assert engine_state_hash(engine) == expected
    engine.state.row(1, 1)[3] += 1
    assert engine_state_hash(engine) != expected


def test_marker_changes_nothing_but_the_sequence_and_a_journal_without_one_reads_as_before(tmp_path: Path) -> None:
    with start(tmp_path / "plain") as plain, start(tmp_path / "marked") as marked:
        at = plain.engine.last_ts_us
        before = snapshot.pack(marked.engine)
        (event,) = marked.submit(cmd.Marker("recon:1"), at)
        assert event == Marked(marked.engine.last_seq, day_number(FIRST), at)
        state = marked.engine.state
        state.last_seq, state.last_ts_us, state.last_crc = plain.engine.last_seq, at, plain.engine.state.last_crc
        assert snapshot.pack(marked.engine) == before == snapshot.pack(plain.engine)
    with (
        JournalReader(journal_path(tmp_path / "marked")) as reader,
        JournalReader(journal_path(tmp_path / "plain")) as without,
    ):
        old = list(without.raw_records())
        assert list(reader.raw_records())[:-1] == old
        assert [record.command for record in reader.records(len(old))] == [cmd.Marker("recon:1")]


def test_dates_behind_are_those_that_the_first_command_at_the_clocks_time_cuts_off(tmp_path: Path) -> None:
    def behind(now: datetime) -> list[date]:
        return dates_behind(tmp_path, first_day=FIRST, cutoff_rule=UTC_MIDNIGHT, now=now)

    ends = UTC_MIDNIGHT.instant(FIRST)
    assert behind(ends - timedelta(microseconds=1)) == []
    assert behind(ends) == [FIRST]
    with start(tmp_path) as sequencer:
        sequencer.cut_off(FIRST)
        later = ends + timedelta(days=3)
        expected = behind(later)
        events = take(sequencer, to_us(later))
    assert expected == [FIRST + timedelta(days=n) for n in (1, 2, 3)]
    assert [event.close_day for event in events if isinstance(event, CutOff)] == [day_number(day) for day in expected]
    assert behind(later) == []
