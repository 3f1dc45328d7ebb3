"""Comparing engine and ledger at markers: who waits for what, and what is said when it does not come.

What belongs here: markers that have no result yet, the engine's rows at one, deadlines.
What does not: the comparison's transaction (see `engine.store.markers`), bringing settlement to a marker (`settler`).

A marker gets one result. It is compared by the settlement loop, in the instant in which the ledger is at its sequence;
or, past its deadline, it is written down as unknown here, over a connection of its own, so that a settlement that
hangs does not keep its own failure quiet. After a kill, both find in the journal what is owed.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from engine import clock
from engine.clock import day_number, from_day_number, from_us
from engine.errors import ComplineError, UncheckedError
from engine.exchange import codec
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Marker
from engine.exchange.engine import ExchangeEngine
from engine.exchange.journal import JournalReader, journal_path
from engine.store import markers
from engine.store.capture import HOUSE_FEES, HOUSE_OWED
from engine.store.connect import Connection, connect, translate, typed_errors, unreachable
from engine.store.markers import MarkerAt

_LOOK_S = 0.5
_BLOCK = 10_000
_LEAST_S = 10
_TS = struct.Struct("<q")
_TS_OFFSET = 8


class Comparer:
    """Results of one exchange's markers.

    Args:
        url: the book's database, as the application.
        directory: of the exchange.
        book: its name.
        committed: the last sequence that may be read.

    Attributes:
        deadline_s: how long after its sequencing a marker may be compared.
        last: the last result, as status has it; empty where there is none yet.
    """

    def __init__(self, url: str, directory: Path, book: str, committed: Callable[[], int]) -> None:
        self._url = url
        self._directory = directory
        self._book = book
        self._committed = committed
        self._connection: Connection | None = None
        self._waiting: dict[int, int] = {}
        self._lock = threading.Lock()
        self._found = False
        self.deadline_s = 60
        self.last: dict[str, Any] = {}

    @property
    def waiting(self) -> int:
        """Markers without a result."""
        return len(self._waiting)

    @property
    def overdue(self) -> int:
        """Markers without a result that are past their deadline: unknown, also where that cannot be written down."""
        return len(self._expired())

    def expect(self, seq: int, ts_us: int) -> None:
        """A marker was journalled."""
        with self._lock:
            if seq > self.last.get("seq", 0):
                self._waiting[seq] = ts_us

    # The settlement loop's part, in its thread.

    def compare(self, connection: Connection, engine: ExchangeEngine, record: JournalRecord) -> None:
        """Compare at a marker that engine and settlement have reached; what cannot be compared is unknown.

        Whatever is wrong with a comparison, settlement goes on: a marker without a result becomes overdue.

        Args:
            connection: the settlement's, in autocommit.
            engine: as it is right after the marker.
            record: the marker's.

        Raises:
            UncheckedError: the database is away; to be tried again once it is there.
        """
        self.expect(record.seq, record.ts_us)
        marker = _marker(record, engine.open_day)
        # As the deadline has it, but never so short that a comparison has no chance.
        left_s = int(self._due(record.ts_us).total_seconds())
        verdict = None
        try:
            if left_s <= 0:
                verdict = markers.unknown(connection, marker, self._book, _LATE)
            else:
                rows = engine_rows(engine)
                limit_s = max(left_s, _LEAST_S)
                verdict = markers.compare(connection, marker, self._book, _Blocks(rows), len(rows), limit_s=limit_s)
        except (psycopg.Error, UncheckedError) as error:
            why = error if isinstance(error, UncheckedError) else translate(error)
            if connection.broken or connection.closed:
                raise (unreachable(error) if isinstance(error, psycopg.Error) else why) from error
            try:
                verdict = markers.unknown(connection, marker, self._book, f"not compared: {why.what}")
            except psycopg.Error as again:
                if connection.broken or connection.closed:
                    raise unreachable(again) from again
                return
        self._said(marker.seq, verdict)

    def _said(self, seq: int, verdict: str | None) -> None:
        with self._lock:
            self._waiting.pop(seq, None)
            if verdict is not None and seq > self.last.get("seq", 0):
                self.last = {"seq": seq, "verdict": verdict, "at": int(clock.now().timestamp())}

    # What has to be said without the settlement loop.

    async def run(self) -> None:
        """Find what is owed, and say what is overdue, until cancelled."""
        while True:
            if not self._found or self._expired():
                try:
                    await asyncio.to_thread(self._look)
                except (ComplineError, OSError):
                    # It stays overdue, which status says; the database is asked again.
                    self.close()
            await asyncio.sleep(_LOOK_S)

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _look(self) -> None:
        with typed_errors():
            if self._connection is None:
                self._connection = connect(self._url, autocommit=True, application="compline markers")
            if not self._found:
                self._find(self._connection)
                self._found = True
            for seq in self._expired():
                with JournalReader(journal_path(self._directory)) as reader:
                    (record,) = reader.records(seq - 1, seq)
                day = day_number(markers.day_of(self._connection, seq))
                self._said(seq, markers.unknown(self._connection, _marker(record, day), self._book, _LATE))

    def _find(self, connection: Connection) -> None:
        """What was journalled and has no result: a process was killed between the two."""
        at = markers.last_judged(connection)
        for one in markers.recent(connection, 1):
            assert at is not None
            self.last = {"seq": one.seq, "verdict": one.verdict, "at": int(at.timestamp())}
        committed = self._committed()
        with JournalReader(journal_path(self._directory)) as reader:
            for seq in reader.sequences_of(codec.Kind.MARKER, markers.since(connection)):
                raw = reader.raw_at(seq)
                if seq > committed or raw is None:
                    break
                self.expect(seq, _TS.unpack_from(raw, _TS_OFFSET)[0])

    def _due(self, ts_us: int) -> timedelta:
        return from_us(ts_us) + timedelta(seconds=self.deadline_s) - clock.now()

    def _expired(self) -> list[int]:
        with self._lock:
            return [seq for seq, ts_us in sorted(self._waiting.items()) if self._due(ts_us) <= timedelta(0)]


_LATE = "settlement did not reach the marker before its deadline, or a close settled past it"


def _marker(record: JournalRecord, open_day: int) -> MarkerAt:
    assert isinstance(record.command, Marker)
    return MarkerAt(record.seq, from_day_number(open_day), from_us(record.ts_us), record.command.reference)


def engine_rows(engine: ExchangeEngine) -> list[str]:
    """The engine's side, a COPY line each: users' parts, the house's fees and users' debts; zeros are left out.

    Names and symbols need no escaping, and an amount is a whole number with its exponent: a hundred thousand users'
    rows are made between two batches of settlement.
    """
    registry = engine.registry
    names = {number: account.name for number, account in registry.accounts.items()}
    ends = {number: f"\t{asset.symbol}\t" for number, asset in registry.assets.items()}
    scales = {number: f"e-{asset.decimals}\n" for number, asset in registry.assets.items()}
    rows: list[str] = []
    for (account, asset), (available, locked, staked, in_transit) in engine.state.balances.items():
        if held := available + locked:
            rows.append(f"{names[account]}{ends[asset]}{held}{scales[asset]}")
        if staked:
            rows.append(f"{names[account]}:staked{ends[asset]}{staked}{scales[asset]}")
        if in_transit:
            rows.append(f"{names[account]}:in_transit{ends[asset]}{in_transit}{scales[asset]}")
    for asset in registry.assets:
        for name, units in ((HOUSE_FEES, engine.fees(asset)), (HOUSE_OWED, -engine.owed(asset))):
            if units:
                rows.append(f"{name}{ends[asset]}{units}{scales[asset]}")
    return rows


class _Blocks:
    """Rows in blocks for COPY, from the start again on every iteration."""

    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._rows), _BLOCK):
            yield "".join(self._rows[start : start + _BLOCK]).encode("ascii")
