"""The demo exchange loaded: the seeded flow journalled, whole, however often it was killed on the way.

What belongs here: regenerating the flow against what the journal already holds, and the summary.
What does not: the flow (see `demo_flow`) and its sizes (see `demo_world`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.clock import day_number
from engine.errors import UsageError
from engine.exchange import codec
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Command
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalMismatchError, JournalWriteError
from engine.exchange.journal import JournalReader
from engine.exchange.journal_writer import JournalWriter
from engine.exchange.sequencer import Sequencer
from engine.exchange.whole_file import write_atomically
from engine.sim.demo_flow import DemoFlow
from engine.sim.demo_world import DemoConfig

Progress = Callable[[int, int], None]
MARKER_NAME = "demo.json"
_GROUP_STEPS = 500


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What loading the demo did.

    Attributes:
        commands: records of the demo's journal, cut-offs included.
        resumed_after: records that were there before.
        trades: trades of the whole demo.
        accounts: users and makers.
        already_loaded: nothing was left to do.
        seconds: wall time.
    """

    commands: int
    resumed_after: int
    trades: int
    accounts: int
    already_loaded: bool
    seconds: float


def load_demo(directory: Path, config: DemoConfig | None = None, *, progress: Progress | None = None) -> DemoSummary:
    """Journal the demo's days, the last cut-off included; a part that is there already is compared and kept.

    Args:
        directory: the exchange's directory, made if absent.
        config: size and seed.
        progress: called with (done, total) steps.

    Raises:
        UsageError: the configuration is too small.
        JournalMismatchError: the journal there is not this demo's.
        JournalLockedError: another process writes it.
        JournalCorruptError: a record inside does not hold.
        JournalWriteError: the disk refused.
    """
    chosen = config or DemoConfig()
    if chosen.days < 1 or chosen.users < 2 or chosen.makers < 2 or chosen.steps_per_day < 10:
        raise UsageError(f"demo of {chosen}", rule="at least 1 day, 2 users, 2 makers and 10 steps a day")
    # Only measures; decides nothing.
    started = time.perf_counter()
    writer = JournalWriter(directory, first_day=day_number(chosen.first_day))
    try:
        with JournalReader(writer.path) as reader:
            loaded = _marked(directory, chosen, reader)
            if loaded is not None:
                return DemoSummary(**loaded, already_loaded=True, seconds=time.perf_counter() - started)
            sink = _PrefixSink(writer, reader)
            sequencer = Sequencer(
                ExchangeEngine(reader.first_day), sink, cutoff_rule=chosen.cutoff_rule, directory=directory
            )
            _live(DemoFlow(sequencer, chosen), sink, progress)
            sink.commit()
        done = {
            "commands": sequencer.engine.last_seq,
            "trades": sequencer.engine.state.next_trade_id - 1,
            "accounts": len(sequencer.engine.registry.accounts),
        }
        _mark(directory, chosen, {**done, "crc": sequencer.engine.state.last_crc})
        return DemoSummary(
            **done,
            resumed_after=min(sink.held, sequencer.engine.last_seq),
            already_loaded=sink.held >= sequencer.engine.last_seq,
            seconds=time.perf_counter() - started,
        )
    finally:
        writer.close()


def _live(flow: DemoFlow, sink: _PrefixSink, progress: Progress | None) -> None:
    for done, _ in enumerate(flow.run(), start=1):
        if done % _GROUP_STEPS == 0:
            sink.commit()
            if progress is not None:
                progress(done, flow.steps)
    if progress is not None:
        progress(flow.steps, flow.steps)


class _PrefixSink:
    """A sink over a journal that may hold the beginning: that is compared byte by byte, the rest appended."""

    def __init__(self, writer: JournalWriter, reader: JournalReader) -> None:
        self.held = writer.last_seq
        self._writer = writer
        self._existing = reader.raw_records(0, writer.last_seq)
        self._crc = reader.header_crc
        self._seq = 0

    def append(self, command: Command, ts_us: int) -> JournalRecord:
        """The next record: compared with the journal's, or appended to it.

        Raises:
            JournalMismatchError: the journal holds another record there.
        """
        self._seq += 1
        if self._seq > self.held:
            return self._writer.append(command, ts_us)
        raw, record = codec.encode(self._seq, ts_us, command, self._crc)
        if raw != next(self._existing, None):
            raise JournalMismatchError(
                f"journal {self._writer.path}: record {self._seq} is not this demo's {type(command).__name__}",
                rule="a demo is continued with the seed and sizes that it was begun with",
                next_step="use those, or another directory",
            )
        self._crc = record.crc
        return record

    def commit(self) -> None:
        """Make what was appended durable."""
        self._writer.commit()

    def close(self) -> None:
        """Nothing: the writer's owner closes it."""


def _fingerprint(config: DemoConfig) -> str:
    return json.dumps(asdict(config), sort_keys=True, default=str)


def _mark(directory: Path, config: DemoConfig, done: dict[str, int]) -> None:
    """Note that the demo is complete, so that the next run needn't regenerate it; the journal stays the record."""
    path = directory / MARKER_NAME
    try:
        write_atomically(path, json.dumps({"config": _fingerprint(config), **done}, sort_keys=True).encode())
    except OSError as error:
        raise JournalWriteError(path, error) from None


def _marked(directory: Path, config: DemoConfig, reader: JournalReader) -> dict[str, int] | None:
    """The counts of a complete demo, if the marker is of this configuration and the journal confirms it.

    The CRC at the demo's last record proves every record before it, and the writer has just checked them all.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((directory / MARKER_NAME).read_text())
        commands = int(found["commands"])
        if found["config"] == _fingerprint(config) and reader.crc_at(commands) == found["crc"]:
            counts = {name: int(found[name]) for name in ("commands", "trades", "accounts")}
            return {**counts, "resumed_after": commands}
    return None
