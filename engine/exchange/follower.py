"""The exchange followed by a reader: an engine of its own that keeps up with the journal.

What belongs here: reading on, command by command, with the state right after each.
What does not: reading a journal once (see `history`), and what a follower does with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.exchange import snapshots
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Command
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event
from engine.exchange.journal import JournalReader, journal_path


class JournalFollower:
    """An engine that goes through a journal beside its writer.

    Args:
        directory: of the exchange.
        after_seq: the last command already known.

    Raises:
        InputError: there is no journal.
        JournalCorruptError: a record before that sequence does not hold.
    """

    def __init__(self, directory: Path, after_seq: int) -> None:
        self._reader = JournalReader(journal_path(directory))
        try:
            self.engine: ExchangeEngine = snapshots.newest_engine(directory, self._reader, after_seq)
            for record in self._reader.records(self.engine.last_seq, after_seq):
                self.engine.apply(record)
        except BaseException:
            self._reader.close()
            raise

    @property
    def seq(self) -> int:
        """The last command gone through."""
        return self.engine.last_seq

    def read(self, up_to_seq: int, limit: int) -> Iterator[tuple[JournalRecord, list[Event]]]:
        """Go on; while one is looked at, `engine` is as it was right after it.

        Args:
            up_to_seq: the last sequence that the writer committed.
            limit: how many commands at most.
        """
        for record in self._reader.records(self.seq, min(up_to_seq, self.seq + limit)):
            yield record, self.engine.apply(record)

    def last_record(self, kind: type[Command]) -> JournalRecord | None:
        """The record of the last command gone through, if it is of this kind."""
        found = next(self._reader.records(self.seq - 1, self.seq), None) if self.seq else None
        return found if found is not None and isinstance(found.command, kind) else None

    def close(self) -> None:
        """Give the file back."""
        self._reader.close()
