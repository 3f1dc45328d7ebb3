"""One contract, two engines: the kernel decides, locks, matches and settles every stream as the online engine does."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given

from engine.errors import InputError
from engine.exchange import codec, history, snapshot
from engine.exchange import commands as cmd
from engine.exchange.conformance import EngineName
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalCorruptError
from engine.exchange.events import Rejected, RejectReason, Trade
from engine.exchange.journal import JOURNAL_NAME, JournalReader, journal_path
from engine.exchange.replay import replay
from engine.exchange.replay_numba import replay_records
from engine.exchange.replay_world import records_of
from engine.exchange.sequencer import Sequencer
from engine.sim.demo import load_demo
from engine.sim.demo_world import DemoConfig
from engine.sim.memory_sink import MemorySink
from tests.property.examples import examples
from tests.property.exchange_commands import CONFIGURATION, FIRST_DAY, OPENS_US, RULE, streams
from tests.property.exchange_traffic import Traffic


def play(stream: list[tuple[cmd.Command, int]], *, check: bool = False) -> tuple[Sequencer, list[Trade], list[int]]:
    """The online engine: its state, trades, and each record's reason."""
    sink = MemorySink()
    sequencer = Sequencer(ExchangeEngine(FIRST_DAY), sink, cutoff_rule=RULE)
    trades: list[Trade] = []
    reasons: list[int] = []
    now = OPENS_US
    for command, wait in [(one, -1 if i == 0 else 0) for i, one in enumerate(CONFIGURATION)] + [(None, 1), *stream]:
        now += wait
        if command is None:
            continue
        events = sequencer.submit(command, now)
        while len(reasons) < len(sink.records):
            reasons.append(0)
        for event in events:
            if isinstance(event, Trade):
                trades.append(event)
            elif isinstance(event, Rejected):
                reasons[event.engine_seq - 1] = event.reason
        if check:
            sequencer.engine.check_conservation()
            sequencer.engine.check_locks()
    return sequencer, trades, reasons


def kernel_of(sequencer: Sequencer) -> tuple[ExchangeEngine, list[Trade], list[int]]:
    sink = sequencer.sink
    assert isinstance(sink, MemorySink)
    done = replay_records(FIRST_DAY, records_of(b"".join(sink.raw)))
    return done.engine, list(done.trades()), done.reasons.tolist()


@given(streams)
@examples(120, 400)
def test_kernel_gives_the_trades_rejects_balances_locks_and_books_of_the_online_engine(
    stream: list[tuple[cmd.Command, int]],
) -> None:
    sequencer, trades, reasons = play(stream)
    engine, found, why = kernel_of(sequencer)
    assert why == reasons
    assert found == trades
    assert snapshot.engine_state_hash(engine) == snapshot.engine_state_hash(sequencer.engine)
    # The whole state: references, keys, prices, limits, fees and flows too.
    assert snapshot.pack(engine) == snapshot.pack(sequencer.engine)


@given(streams)
@examples(60, 150)
def test_value_is_conserved_and_locks_are_the_orders_after_every_kind_of_command(
    stream: list[tuple[cmd.Command, int]],
) -> None:
    _, trades, _ = play(stream, check=True)
    for trade in trades:
        assert trade.maker_fee_units + trade.taker_fee_units >= 0


def test_kernel_equals_the_online_engine_over_long_traffic_that_reaches_every_command_and_reason() -> None:
    seen: Counter[str] = Counter()
    for seed in range(8):
        traffic = Traffic(seed)
        trades: list[Trade] = []
        reasons = [0] * traffic.engine.last_seq
        for step in range(1500):
            command, events = traffic.step()
            reasons += [0] * (traffic.engine.last_seq - len(reasons))
            trades += [event for event in events if isinstance(event, Trade)]
            rejected = [event for event in events if isinstance(event, Rejected)]
            for event in rejected:
                reasons[event.engine_seq - 1] = event.reason
            seen[rejected[0].reason.name if rejected else type(command).__name__] += 1
            if step % 100 == 0:
                traffic.engine.check_conservation()
                traffic.engine.check_locks()
        engine, found, why = kernel_of(traffic.sequencer)
        assert why == reasons
        assert found == trades
        assert snapshot.pack(engine) == snapshot.pack(traffic.engine)
    commands = {kind.__name__ for kind in codec._ENCODERS} - {"CutOff", "OpeningBalance"}
    assert commands - set(seen) == set()
    assert {reason.name for reason in RejectReason} - set(seen) == set()
    assert sum(seen[reason.name] for reason in RejectReason) < sum(seen.values()) / 2


def test_snapshot_of_a_stream_with_every_kind_of_state_is_read_back_whole(tmp_path: Path) -> None:
    @given(streams)
    @examples(30, 60)
    def holds(stream: list[tuple[cmd.Command, int]]) -> None:
        engine = play(stream)[0].engine
        snapshot.save(engine, tmp_path / "one.snap")
        again = snapshot.load(tmp_path / "one.snap")
        assert snapshot.pack(again) == snapshot.pack(engine)

    holds()


def test_both_engines_replay_the_demo_to_the_same_trades_balances_and_hashes(tmp_path: Path) -> None:
    config = DemoConfig(users=60, makers=3, steps_per_day=700, days=2)
    load_demo(tmp_path, config)
    for until in (None, config.first_day):
        one, two = (replay(tmp_path, name, until=until) for name in EngineName)
        assert two.engine == EngineName.NUMBA
        assert snapshot.pack(one.state) == snapshot.pack(two.state)
        figures = [{k: v for k, v in r.as_dict().items() if "second" not in k and k != "engine"} for r in (one, two)]
        assert figures[0] == figures[1]
        assert one.trades > 150
    assert snapshot.pack(one.state) == snapshot.pack(history.state_at_cutoff(tmp_path, config.first_day))
    # Damage behind the day that is asked for is none of its business, and everybody's of the whole.
    path = journal_path(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-2 * codec.RECORD_BYTES + 70] ^= 1
    path.write_bytes(damaged)
    for name in EngineName:
        day = replay(tmp_path, name, until=config.first_day)
        assert (day.engine, day.trades_sha256) == (name, one.trades_sha256)
        with pytest.raises(JournalCorruptError):
            replay(tmp_path, name)


def test_hashes_of_a_replay_are_what_the_auditors_page_says(tmp_path: Path) -> None:
    config = DemoConfig(users=20, makers=2, steps_per_day=120, days=1)
    load_demo(tmp_path, config)
    found = replay(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "auditors" / "engine.md").read_text()
    (names,) = re.findall(r"^ +(trade_id,\S+)$", page, re.MULTILINE)
    with history.events_from(tmp_path, 0) as stream:
        trades = [event for events in stream for event in events if isinstance(event, Trade)]
    lines = "".join(",".join(str(int(getattr(t, name))) for name in names.split(",")) + "\n" for t in trades)
    assert found.trades == len(trades) > 10
    assert found.trades_sha256 == hashlib.sha256(lines.encode()).hexdigest()
    layouts = re.findall(r"`(<[A-Za-z0-9]+)`: ", page)
    held = [
        struct.pack(
            layouts[0],
            *(b.account, b.asset),
            *(word for u in (b.available, b.locked, b.staked, b.in_transit) for word in (u % 2**64, u >> 64)),
        )
        for b in found.state.balances()
    ]
    orders = [
        struct.pack(
            layouts[1], m, o.side + 2 * o.post_only, o.order_id, o.account, o.price, o.quantity, o.rate_ppm, o.reserve
        )
        for m, o in found.state.resting()
    ]
    packed = b"".join(len(rows).to_bytes(8, "little") + b"".join(rows) for rows in (held, orders))
    assert found.as_dict()["engine_state_hash"] == hashlib.sha256(packed).hexdigest()
    assert held
    assert orders


def test_journal_larger_than_the_memory_is_replayed_by_the_online_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_demo(tmp_path, DemoConfig(users=20, makers=2, steps_per_day=60, days=1))
    monkeypatch.setattr("engine.exchange.replay.memory_bytes", lambda: journal_path(tmp_path).stat().st_size)
    assert replay(tmp_path, EngineName.NUMBA).engine == EngineName.PYTHON


def test_prices_far_apart_have_levels_too() -> None:
    far = [1, 2**20, 2**40, 2**62, 2**63 - 1, 3, 2**33 + 1]
    stream: list[tuple[cmd.Command, int]] = []
    for number, price in enumerate(far):
        stream += [(cmd.NewOrder(1, 300, 1, price, 1 + number, cmd.TimeInForce.GTC), 0)]  # type: ignore[arg-type]
    stream += [(cmd.NewOrder(2, 300, 0, 2**40, 9, cmd.TimeInForce.GTC), 0)]  # type: ignore[arg-type]
    sequencer, trades, reasons = play(stream)
    engine, found, why = kernel_of(sequencer)
    assert why == reasons
    assert found == trades
    assert trades
    assert snapshot.pack(engine) == snapshot.pack(sequencer.engine)


@pytest.mark.parametrize("engine", list(EngineName))
def test_record_that_this_version_does_not_write_is_refused_with_its_sequence_by_both(
    tmp_path: Path, engine: EngineName
) -> None:
    load_demo(tmp_path, DemoConfig(users=20, makers=2, steps_per_day=60, days=1))
    path = journal_path(tmp_path)
    with JournalReader(path) as reader:
        records = list(reader.raw_records())
        crc = reader.header_crc
    header = path.read_bytes()[: codec.RECORD_BYTES]
    orders = [at for at, raw in enumerate(records) if raw[codec.KIND_OFFSET] == codec.Kind.NEW_ORDER]
    text, reserve = codec.BODY_BYTES - codec.TEXT_BYTES, codec.BODY_BYTES - codec.TEXT_BYTES - 16
    for at, offset, value in (
        (orders[3], 26, 9),
        (orders[5], 25, 2),
        (orders[7], text + 3, 0xFF),
        (orders[7], text + 63, ord("A")),
        (orders[9], text, ord("\n")),
        (orders[9], reserve + 7, 0x80),
        (orders[9], reserve + 8, 1),
        (len(records) - 1, codec.KIND_OFFSET, 99),
    ):
        changed, chain = [], crc
        for number, raw in enumerate(records):
            body = bytearray(raw[: codec.BODY_BYTES])
            if number == at:
                body[offset] = value
            chain = zlib.crc32(body, chain)
            changed.append(bytes(body) + chain.to_bytes(4, "little"))
        path.write_bytes(header + b"".join(changed))
        with pytest.raises(JournalCorruptError) as caught:
            replay(tmp_path, engine)
        assert caught.value.seq == at + 1


@pytest.mark.parametrize("engine", list(EngineName))
def test_torn_tail_is_left_out_damage_is_refused_and_an_empty_journal_is_empty(
    tmp_path: Path, engine: EngineName
) -> None:
    load_demo(tmp_path, DemoConfig(users=20, makers=2, steps_per_day=60, days=1))
    path = journal_path(tmp_path)
    whole = path.read_bytes()
    count = len(whole) // codec.RECORD_BYTES - 1
    path.write_bytes(whole[:-7])
    assert replay(tmp_path, engine).commands == count - 1
    path.write_bytes(whole[:-160] + bytes(320))
    assert replay(path, engine).commands == count - 1
    damaged = bytearray(whole)
    damaged[160 * 50 + 66] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(JournalCorruptError) as caught:
        replay(tmp_path, engine)
    assert caught.value.seq == 50
    path.write_bytes(whole[:160])
    empty = replay(tmp_path, engine)
    assert (empty.commands, empty.trades, empty.rejects) == (0, 0, {})
    with pytest.raises(InputError, match="has not been cut off"):
        replay(tmp_path, engine, until=date(2026, 3, 2))
    with pytest.raises(InputError, match="before its day zero, 2026-03-01"):
        replay(tmp_path, engine, until=date(2026, 2, 28))
    with pytest.raises(InputError, match="No such file") as absent:
        replay(tmp_path / "nothing", engine)
    assert "load an exchange" in absent.value.next_step
    (tmp_path / "folder" / JOURNAL_NAME).mkdir(parents=True)
    with pytest.raises(InputError, match="Is a directory") as unreadable:
        replay(tmp_path / "folder", engine)
    assert "readable" in unreadable.value.next_step
