"""A journal replayed from its first record, with no database: trades, balances and hashes.

What belongs here: the walk by either engine, and what it found in a form that both share.
What does not: what a command does (see `engine` and `kernels.replay`), recovery from snapshots (see `history`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.clock import CloseDate, day_number, from_day_number
from engine.errors import InputError
from engine.exchange.commit_log import read_log, refuse_unless_put_back
from engine.exchange.conformance import EngineName
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalCorruptError
from engine.exchange.events import Rejected, RejectReason, Trade
from engine.exchange.journal import JOURNAL_NAME, JournalReader
from engine.exchange.memory import memory_bytes
from engine.exchange.snapshot import engine_state_hash
from engine.money import from_units, text_of

if TYPE_CHECKING:
    from engine.exchange.replay_numba import Replayed

_ARRAYS_PER_JOURNAL = 4
"""How many times its own size a journal takes in memory, with the arrays that it is replayed on, at most."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Attributes:
        engine: who replayed; `python` where the journal was too large for the arrays of the other.
        state: the exchange after the last record.
        trades: how many.
        trades_sha256: over every trade's fields in order, joined by commas, a line each.
        rejects: refused commands by reason.
        seconds: wall time of reading, checking and applying.
    """

    engine: EngineName
    state: ExchangeEngine
    trades: int
    trades_sha256: str
    rejects: dict[str, int]
    seconds: float

    @property
    def commands(self) -> int:
        """How many records were applied."""
        return self.state.last_seq

    def as_dict(self) -> dict[str, object]:
        """The figures and balances as JSON-ready text; amounts are strings."""
        state, registry = self.state, self.state.registry
        places = ("available", "locked", "staked", "in_transit")
        balances = []
        for one in state.balances():
            asset = registry.assets[one.asset]
            held = {place: text_of(from_units(getattr(one, place), asset.decimals)) for place in places}
            balances.append({"account": registry.accounts[one.account].name, "asset": asset.symbol, **held})
        return {
            "engine": self.engine.value,
            "commands": self.commands,
            "rejects": self.rejects,
            "trades": self.trades,
            "trades_sha256": self.trades_sha256,
            "engine_state_hash": engine_state_hash(state),
            "open_day": str(from_day_number(state.open_day)),
            "resting_orders": sum(1 for _ in state.resting()),
            "fees": {
                asset.symbol: text_of(from_units(state.fees(asset.asset), asset.decimals))
                for asset in registry.assets.values()
            },
            "balances": balances,
            "seconds": f"{self.seconds:.3f}",
            "commands_per_second": int(self.commands / self.seconds) if self.seconds else 0,
        }


def replay(path: Path, engine: EngineName = EngineName.PYTHON, *, until: CloseDate | None = None) -> Replay:
    """Replay a journal, checking every record and that value is conserved.

    Args:
        path: the journal, or the directory that it lies in.
        engine: who replays.
        until: stop after the cut-off of this close date.

    Raises:
        InputError: there is no such journal, or it does not cut that date off, or begins after it.
        JournalCorruptError: a record does not hold.
        UncheckedError: the journal lost its end to a power cut, and its commit log has it.
        GateError: value is not conserved.
    """
    file = path / JOURNAL_NAME if path.is_dir() else path
    day = None if until is None else day_number(until)
    log = read_log(file) if file.name == JOURNAL_NAME else b""
    with JournalReader(file) as reader:
        if day is not None and day < reader.first_day - 1:
            raise InputError(
                f"journal {file}: {until} lies before its day zero, {from_day_number(reader.first_day - 1)}",
                rule="a replay stops at a cut-off that the journal holds",
                next_step="ask for that date or a later one",
            )
        found = _by_kernel(reader, day) if engine == EngineName.NUMBA else None
        if found is None:
            found = _online(reader, day)
        if day is None or found.state.open_day <= day:
            refuse_unless_put_back(log, reader, reader.ended_at(found.state.last_seq, found.state.state.last_crc))
    if until is not None and found.state.open_day <= day_number(until):
        raise InputError(
            f"journal {file}: {until} has not been cut off",
            rule="a replay stops at a cut-off that the journal holds",
            next_step=f"the open day is {from_day_number(found.state.open_day)}; ask for an earlier one",
        )
    found.state.check_conservation()
    found.state.check_locks()
    return found


def _online(reader: JournalReader, until_day: int | None) -> Replay:
    started = time.perf_counter()
    engine = ExchangeEngine(reader.first_day)
    # Hashed as they come: kept, the trades of a long journal would fill the memory.
    digest = hashlib.sha256()
    rejects: Counter[str] = Counter()
    for record in reader.records():
        for event in engine.apply(record):
            if isinstance(event, Trade):
                digest.update(_line(event))
            elif isinstance(event, Rejected):
                rejects[event.reason.name] += 1
        if until_day is not None and engine.open_day > until_day:
            break
    seconds = time.perf_counter() - started
    trades = engine.state.next_trade_id - 1
    return Replay(EngineName.PYTHON, engine, trades, digest.hexdigest(), dict(sorted(rejects.items())), seconds)


def _by_kernel(reader: JournalReader, until_day: int | None) -> Replay | None:
    """None where the arrays would be too large."""
    from engine.exchange.replay_numba import Run
    from engine.exchange.replay_world import TooLargeError

    started = time.perf_counter()
    if reader.size_bytes * _ARRAYS_PER_JOURNAL > memory_bytes():
        return None
    raw, whole = good_records(reader)
    try:
        run = Run(reader.first_day, raw)
    except (TooLargeError, MemoryError):
        return None
    try:
        run.advance(until_day)
    except ValueError as error:
        seq = run.done + 1
        raise JournalCorruptError(reader.path, seq=seq, offset=seq * raw.shape[1], why=str(error)) from None
    if len(raw) < whole and (until_day is None or run.state.open_day <= until_day):
        # The reader knows a torn tail from damage; what lies behind the last day asked for is not looked at.
        reader.refuse_unless_torn(len(raw) + 1)
    done: Replayed = run.finish()
    seconds = time.perf_counter() - started
    counts = np.bincount(done.reasons, minlength=1).tolist()
    rejects = {RejectReason(reason).name: count for reason, count in enumerate(counts) if reason and count}
    return Replay(
        EngineName.NUMBA,
        done.engine,
        done.trade_count,
        _digest(done.trades()),
        dict(sorted(rejects.items())),
        seconds,
    )


def good_records(reader: JournalReader) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.uint8]], int]:
    """The records of a journal as [records, 160] bytes up to the first whose CRC fails; how many there are in all."""
    from engine.exchange.kernels.crc import first_bad, tables
    from engine.exchange.replay_world import records_of

    raw = records_of(np.fromfile(reader.path, np.uint8)[160:])
    return raw[: int(first_bad(raw.view(np.uint32), tables(), 0, reader.header_crc))], len(raw)


def _digest(trades: Iterator[Trade]) -> str:
    digest = hashlib.sha256()
    for trade in trades:
        digest.update(_line(trade))
    return digest.hexdigest()


def _line(trade: Trade) -> bytes:
    return ",".join([str(int(value)) for value in trade]).encode() + b"\n"
