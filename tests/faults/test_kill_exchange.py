"""The exchange killed under load: every acknowledged command is there, none twice, as if nobody had killed it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.clock import day_number
from engine.exchange import snapshot, snapshots
from engine.exchange.engine import ExchangeEngine
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.exchange.snapshot import engine_state_hash
from engine.sim.memory_sink import MemorySink
from tests.faults.exchange_load import FIRST, RULE, submit

ROOT = Path(__file__).parents[2]


class Uninterrupted:
    """The same load in one process that nobody kills, as far as it was asked for."""

    def __init__(self, header_crc: int) -> None:
        self.sink = MemorySink(header_crc)
        self.sequencer = Sequencer(ExchangeEngine(day_number(FIRST)), self.sink, cutoff_rule=RULE)
        # A command and the cut-offs before it come at once; a recovered journal may end between them.
        self.applied = ExchangeEngine(day_number(FIRST))

    def to(self, seq: int) -> ExchangeEngine:
        while self.sequencer.engine.last_seq < seq:
            submit(self.sequencer)
        for record in self.sink.records[self.applied.last_seq : seq]:
            self.applied.apply(record)
        return self.applied


def killed_under_load(directory: Path, wait_s: float, cut: Callable[[], None] | None = None) -> list[tuple[int, int]]:
    """Load an exchange, kill it some time after its first acknowledgement (or start); what it acknowledged.

    Where the power is `cut` before, what it says from then on does not count: it would be dark.
    """
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.exchange_load", str(directory)],
        cwd=ROOT,
        stdout=write_end,
        stderr=None if cut is None else subprocess.DEVNULL,
    )
    os.close(write_end)
    said = bytearray()
    with open(read_end, "rb", buffering=0) as pipe:
        if wait_s >= 0:
            said += pipe.read(65536) or b""
        deadline = time.monotonic() + abs(wait_s)
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.001))
            # Read on, or the process would wait for room in the pipe.
            os.set_blocking(pipe.fileno(), False)
            said += pipe.read(1 << 20) or b""
        if cut is not None:
            cut()
        process.kill()
        os.set_blocking(pipe.fileno(), True)
        while more := pipe.read(1 << 20):
            said += more if cut is None else b""
    process.wait(30)
    lines = said.decode().split("\n")[:-1]
    return [(int(seq), int(crc)) for seq, crc in (line.split() for line in lines)]


def kill_again_and_again(
    directory: Path,
    kills: int,
    seed: int,
    cut: Callable[[], None] | None = None,
    mend: Callable[[], None] = lambda: None,
) -> None:
    """Load, kill and recover an exchange so many times, and hold it to one that ran undisturbed.

    Args:
        directory: of the exchange.
        kills: how often.
        seed: of when.
        cut: takes the power away before a kill.
        mend: brings it back.
    """
    rng = random.Random(seed)
    open_exchange(directory, first_day=FIRST, cutoff_rule=RULE).close()
    with JournalReader(journal_path(directory)) as reader:
        clean = Uninterrupted(reader.header_crc)
    acknowledged: dict[int, int] = {}
    loaded = 0
    for _ in range(kills):
        # One in eight is killed while it starts and recovers.
        wait = -rng.random() * 0.4 if rng.random() < 0.125 else rng.random() * 0.06
        for seq, crc in killed_under_load(directory, wait, cut):
            assert acknowledged.setdefault(seq, crc) == crc, "a sequence is acknowledged once"
        mend()
        loaded += 1
        with open_exchange(directory, first_day=FIRST, cutoff_rule=RULE) as recovered:
            engine = recovered.engine
            assert engine.last_seq >= max(acknowledged, default=0), "an acknowledged command is lost"
            engine.check_conservation()
            engine.check_locks()
            expected = clean.to(engine.last_seq)
            assert engine_state_hash(engine) == engine_state_hash(expected)
            # The sequencer's own clock and chain too.
            assert snapshot.pack(engine) == snapshot.pack(expected)
    assert loaded == kills
    with JournalReader(journal_path(directory)) as reader:
        records = list(reader.records())
    crcs = {record.seq: record.crc for record in records}
    assert all(crcs[seq] == crc for seq, crc in acknowledged.items())
    keys = Counter(getattr(record.command, "reference", "") for record in records)
    del keys[""]
    assert max(keys.values()) == 1, "a command is there twice"
    assert len(acknowledged) > 20 * kills
    assert snapshots.listed(directory)


def test_exchange_killed_ten_times_under_load_keeps_every_acknowledged_command_once(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 10, seed=1)


@pytest.mark.faults
def test_exchange_killed_two_hundred_times_under_load_keeps_every_acknowledged_command_once(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 200, seed=2)
