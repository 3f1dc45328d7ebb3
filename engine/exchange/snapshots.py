"""The snapshot files of an exchange: which there are, which one is good, what they are called.

What belongs here: names, taking them, choosing the newest good one that the journal confirms, rebuilding an engine.
What does not: their bytes (see `snapshot`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.clock import CloseDate, from_day_number, parse_close_date
from engine.errors import InputError
from engine.exchange import snapshot
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import SnapshotCorruptError
from engine.exchange.journal import JournalReader, journal_path

FOLDER = "snapshots"
_NAME = re.compile(r"cutoff-(\d{4}-\d{2}-\d{2})-(\d{1,20})\.snap")


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A snapshot by its name: taken right after the cut-off of a close date."""

    close_date: CloseDate
    seq: int
    path: Path


def path_of(directory: Path, close_date: CloseDate, seq: int) -> Path:
    """Where the snapshot of a cut-off lies."""
    return directory / FOLDER / f"cutoff-{close_date.isoformat()}-{seq}.snap"


def listed(directory: Path) -> list[SnapshotFile]:
    """The snapshots there are, oldest first; names only, contents unchecked."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in (directory / FOLDER).iterdir():
            name = _NAME.fullmatch(path.name)
            if name:
                with contextlib.suppress(InputError):
                    found.append(SnapshotFile(parse_close_date(name[1]), int(name[2]), path))
    return sorted(found, key=lambda one: one.seq)


def newest_engine(directory: Path, journal: JournalReader, up_to_seq: int | None = None) -> ExchangeEngine:
    """The engine of the newest good snapshot at or before a sequence; an empty one where there is none.

    A snapshot counts only if the journal states the same CRC at its sequence: the chain then proves that all before
    it are the same records. One that does not hold is passed over for an older one.
    """
    for one in reversed(listed(directory)):
        if up_to_seq is not None and one.seq > up_to_seq:
            continue
        with contextlib.suppress(SnapshotCorruptError):
            engine = snapshot.load(one.path)
            same = engine.first_day == journal.first_day and engine.last_seq == one.seq
            if same and journal.crc_at(one.seq) == engine.state.last_crc:
                return engine
    return ExchangeEngine(journal.first_day)


def keep(directory: Path, engine: ExchangeEngine) -> None:
    """Keep the state right after a cut-off, under that cut-off's name.

    Raises:
        JournalWriteError: the disk refused.
    """
    snapshot.save(engine, path_of(directory, from_day_number(engine.open_day - 1), engine.last_seq))


def take(directory: Path, sequences: Sequence[int]) -> None:
    """Take the snapshots of cut-offs from the journal, beside whoever writes it.

    Args:
        directory: of the exchange.
        sequences: of cut-offs, ascending.

    Raises:
        JournalCorruptError: a record that had to be replayed does not hold.
        JournalWriteError: the disk refused.
    """
    with JournalReader(journal_path(directory)) as reader:
        engine = newest_engine(directory, reader, sequences[0])
        for seq in sequences:
            for record in reader.records(engine.last_seq, seq):
                engine.apply(record)
            keep(directory, engine)
