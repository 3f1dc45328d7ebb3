"""The exchange's past, read beside a running writer: cut-offs, states at them, events between sequences.

What belongs here: everything that a close, a settlement consumer or an auditor asks of a journal.
What does not: writing (see `sequencer`).

A reader sees what the file holds, which in the instant between a group's write and its fsync can be more than was
acknowledged: a consumer that runs beside a live writer passes the last committed sequence as `up_to_seq`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from engine.clock import CloseDate, from_day_number
from engine.errors import InputError
from engine.exchange import snapshots
from engine.exchange.codec import Kind
from engine.exchange.commands import CutOff
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.requests import answer_of
from engine.exchange.state import Registry


@dataclass(frozen=True, slots=True)
class JournalledCutOff:
    """A cut-off that the journal holds: genesis first."""

    close_date: CloseDate
    seq: int
    ts_us: int


def cut_offs(directory: Path) -> list[JournalledCutOff]:
    """Every cut-off, oldest first, genesis included.

    Taken from the names of the snapshots where those make an unbroken row of days that the journal confirms, and from
    a scan of the journal after them; from a scan of all of it otherwise.

    Raises:
        InputError: there is no journal.
        JournalCorruptError: a cut-off's record does not hold.
    """
    with JournalReader(journal_path(directory)) as reader:
        found: list[JournalledCutOff] = []
        genesis = from_day_number(reader.first_day - 1)
        for one in snapshots.listed(directory):
            cut = _cut_off_at(reader, one.seq)
            expected = genesis + timedelta(days=len(found))
            if cut is None or cut.close_date != one.close_date or cut.close_date != expected:
                found = []
                break
            found.append(cut)
        for seq in reader.sequences_of(Kind.CUT_OFF, found[-1].seq if found else 0):
            cut = _cut_off_at(reader, seq)
            # A cut-off of any other day than the open one was rejected by the engine.
            if cut is not None and cut.close_date == genesis + timedelta(days=len(found)):
                found.append(cut)
        return found


def _cut_off_at(reader: JournalReader, seq: int) -> JournalledCutOff | None:
    """The cut-off at a sequence, its record checked against the one before; None if there is none."""
    for record in reader.records(seq - 1, seq):
        if isinstance(record.command, CutOff):
            return JournalledCutOff(from_day_number(record.command.close_day), seq, record.ts_us)
    return None


def reaches(directory: Path, seq: int) -> bool:
    """Whether the journal holds the record of a sequence, good beside the one before it.

    Raises:
        InputError: there is no journal.
        JournalCorruptError: the record does not hold.
    """
    with JournalReader(journal_path(directory)) as reader:
        return not seq or any(reader.raw_records(seq - 1, seq))


def make_durable(directory: Path) -> None:
    """Have the disk hold all that the journal shows, whatever its commit log holds.

    Raises:
        UncheckedError: the disk refused.
    """
    with JournalReader(journal_path(directory)) as reader:
        reader.sync()


def cut_off_of(directory: Path, close_date: CloseDate) -> JournalledCutOff:
    """The cut-off of one close date.

    Raises:
        InputError: the journal holds none (yet).
    """
    for one in cut_offs(directory):
        if one.close_date == close_date:
            return one
    raise InputError(
        f"journal {journal_path(directory)}: {close_date} has not been cut off",
        rule="a day's state exists from its cut-off on",
        next_step="cut the day off first: `compline close run` does",
    )


def state_at_cutoff(directory: Path, close_date: CloseDate) -> ExchangeEngine:
    """The engine right after a close date's cut-off; the same whether a snapshot or the journal gives it.

    Raises:
        InputError: the date has not been cut off.
        JournalCorruptError: a record that had to be replayed does not hold.
    """
    return state_at(directory, cut_off_of(directory, close_date).seq)


def state_at(directory: Path, seq: int) -> ExchangeEngine:
    """The engine after a sequence.

    Raises:
        InputError: the journal does not reach it.
        JournalCorruptError: a record that had to be replayed does not hold.
    """
    with JournalReader(journal_path(directory)) as reader:
        engine = snapshots.newest_engine(directory, reader, seq)
        for record in reader.records(engine.last_seq, seq):
            engine.apply(record)
        if engine.last_seq != seq:
            raise InputError(
                f"journal {reader.path} ends at sequence {engine.last_seq}, before {seq}",
                next_step="commit the writer, or ask for an earlier sequence",
            )
        return engine


class EventStream:
    """The events after a sequence, command by command; iterate once, inside `with` or to the end.

    Attributes:
        engine: the engine as of the events last yielded; its registry names accounts, assets and markets.
    """

    def __init__(self, directory: Path, after_seq: int, up_to_seq: int | None, *, answers: bool = False) -> None:
        self._reader = JournalReader(journal_path(directory))
        self._after = after_seq
        self._up_to = up_to_seq
        self._answers = answers
        try:
            self.engine = snapshots.newest_engine(directory, self._reader, after_seq)
        except BaseException:
            self._reader.close()
            raise

    @property
    def registry(self) -> Registry:
        """Names and decimals of everything that the yielded events mention."""
        return self.engine.registry

    def __iter__(self) -> Iterator[list[Event]]:
        engine = self.engine
        with self._reader as reader:
            for record in reader.records(engine.last_seq, self._up_to):
                events = engine.apply(record)
                if record.seq > self._after:
                    answer = answer_of(record, events) if self._answers else None
                    yield events if answer is None else [*events, answer]

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._reader.close()


def events_from(directory: Path, after_seq: int, up_to_seq: int | None = None, *, answers: bool = False) -> EventStream:
    """The events of commands after a sequence, up to another or the end, one list a command, in order.

    Args:
        directory: the exchange's directory.
        after_seq: the last sequence already known, 0 for none.
        up_to_seq: the last to read; None for all that is there.
        answers: add what each command says to the request that asked for it, as settlement needs it.

    Raises:
        InputError: there is no journal.
    """
    return EventStream(directory, after_seq, up_to_seq, answers=answers)
