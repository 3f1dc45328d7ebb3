"""A journal in memory: for what-if runs and tests that need no disk.

What belongs here: a sink that keeps its records.
What does not: durability (see `engine.exchange.journal_writer`).
"""

from __future__ import annotations

from engine.exchange import codec
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Command


class MemorySink:
    """Keeps every record, encoded like a journal's, in order."""

    def __init__(self, header_crc: int = 0) -> None:
        """Start the chain at a journal's header, or at nothing."""
        self.records: list[JournalRecord] = []
        self.raw: list[bytes] = []
        self._crc = header_crc

    def append(self, command: Command, ts_us: int) -> JournalRecord:
        """Take the next record."""
        raw, record = codec.encode(len(self.records) + 1, ts_us, command, self._crc)
        self._crc = record.crc
        self.records.append(record)
        self.raw.append(raw)
        return record

    def commit(self) -> None:
        """Nothing: memory is all there is."""

    def close(self) -> None:
        """Nothing to give back."""
