"""The journal read: a header and fixed-width records, each proving all before it.

What belongs here: the header, the walk over good records, and the rule for a bad one.
What does not: appending (see `journal_writer`), and what a command does (see `engine`).

The rule for a bad record. Groups are appended by one write and acknowledged after its fsync, so a process that is
killed leaves a short last record, and a machine that loses power leaves one short or zeros where the bytes never
reached the disk. Both are a torn tail: never acknowledged, ignored by readers, cut back by the writer. Everything
else is refused, also a complete last record whose CRC fails: it ends in bytes that were written, so it may have been
acknowledged and damaged since. Zeros count as a tail only if they reach from before that record's CRC to the end.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from engine.errors import InputError, UncheckedError
from engine.exchange import codec
from engine.exchange.codec import BODY_BYTES, KIND_OFFSET, RECORD_BYTES, JournalRecord
from engine.exchange.errors import JournalCorruptError

JOURNAL_NAME = "journal.bin"
MAGIC = b"CMPLJRNL"
VERSION = 1
_HEADER = struct.Struct("<8sIIq132s")
_CRC = struct.Struct("<I")
_CHUNK_BYTES = RECORD_BYTES * 8192
_FIRST_DAYS = range(2**20)
"""Days since 1970 that a journal can begin on: dates that a calendar of four-digit years has."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the good records end.

    Attributes:
        seq: the last good record, 0 for none.
        crc: its CRC (the header's for none).
        end: the byte after it.
        torn_bytes: what lies behind, to be cut back.
    """

    seq: int
    crc: int
    end: int
    torn_bytes: int


def header_bytes(first_day: int) -> bytes:
    """The header of a new journal; `first_day` is the first close date as days since 1970."""
    body = _HEADER.pack(MAGIC, VERSION, RECORD_BYTES, first_day, b"")
    return body + _CRC.pack(zlib.crc32(body))


def journal_path(directory: Path) -> Path:
    """The journal of an exchange's directory."""
    return directory / JOURNAL_NAME


class JournalReader:
    """A journal open for reading; works beside a writer, up to the last complete record."""

    def __init__(self, path: Path) -> None:
        """Open a journal and check its header.

        Raises:
            InputError: there is no such journal.
            JournalCorruptError: the header does not hold.
        """
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            header = os.pread(self._fd, RECORD_BYTES, 0)
        except OSError as error:
            self.close()
            absent = isinstance(error, FileNotFoundError | NotADirectoryError)
            load, grant = "load an exchange first: `compline demo` or import-tape", "make it readable to this user"
            raise InputError(
                f"journal {path}: {error.strerror}",
                rule="an exchange is what its journal says",
                next_step=load if absent else grant,
            ) from None
        try:
            self.first_day, self.header_crc = self._read_header(header)
        except BaseException:
            self.close()
            raise

    def _read_header(self, header: bytes) -> tuple[int, int]:
        if len(header) < RECORD_BYTES or _CRC.unpack_from(header, BODY_BYTES)[0] != zlib.crc32(header[:BODY_BYTES]):
            raise JournalCorruptError(self.path, seq=0, offset=0, why="the header is short or its CRC fails")
        magic, version, width, first_day, _ = _HEADER.unpack_from(header)
        if magic != MAGIC or version != VERSION or width != RECORD_BYTES:
            raise JournalCorruptError(self.path, seq=0, offset=0, why=f"format {magic!r} version {version}")
        if first_day not in _FIRST_DAYS:
            raise JournalCorruptError(self.path, seq=0, offset=0, why=f"first day {first_day}")
        return first_day, _CRC.unpack_from(header, BODY_BYTES)[0]

    @property
    def size_bytes(self) -> int:
        """How large the file is, header and tail included."""
        return os.fstat(self._fd).st_size

    def sync(self) -> None:
        """Have the disk hold all that the file shows.

        Raises:
            UncheckedError: the disk refused.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise UncheckedError(
                f"journal {self.path}: {error.strerror}",
                rule="a day is closed on what the disk has",
                next_step="repair the disk, and start the exchange: it writes from commits.log what the disk missed",
            ) from None

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def raw_at(self, seq: int) -> bytes | None:
        """The bytes at a sequence, unchecked; None beyond the end."""
        raw = os.pread(self._fd, RECORD_BYTES, seq * RECORD_BYTES)
        return raw if len(raw) == RECORD_BYTES else None

    def raw_between(self, seq: int, size: int) -> bytes:
        """The bytes from a sequence on, unchecked."""
        return os.pread(self._fd, size, seq * RECORD_BYTES)

    def crc_at(self, seq: int) -> int | None:
        """The CRC that the record of a sequence states (the header's for 0); None beyond the end."""
        if seq == 0:
            return self.header_crc
        raw = self.raw_at(seq)
        return None if raw is None else codec.crc_of(raw)

    def raw_records(self, after_seq: int = 0, up_to_seq: int | None = None, crc: int | None = None) -> Iterator[bytes]:
        """The good records after a sequence, as bytes, in order, up to the end or a torn tail.

        Args:
            after_seq: the record before the first.
            up_to_seq: the last.
            crc: of the record before the first, where it is known from elsewhere.

        Raises:
            JournalCorruptError: a record that is no torn tail does not hold.
        """
        crc = self.crc_at(after_seq) if crc is None else crc
        if crc is None:
            return
        seq = after_seq
        while up_to_seq is None or seq < up_to_seq:
            want = _CHUNK_BYTES if up_to_seq is None else min(_CHUNK_BYTES, (up_to_seq - seq) * RECORD_BYTES)
            data = os.pread(self._fd, want, (seq + 1) * RECORD_BYTES)
            if len(data) < RECORD_BYTES:
                return
            for start in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
                raw = data[start : start + RECORD_BYTES]
                if not codec.is_good(raw, seq + 1, crc):
                    self.refuse_unless_torn(seq + 1)
                    return
                seq += 1
                crc = codec.crc_of(raw)
                yield raw

    def records(self, after_seq: int = 0, up_to_seq: int | None = None) -> Iterator[JournalRecord]:
        """The good records after a sequence, decoded.

        Raises:
            JournalCorruptError: a record does not hold, or is of a kind that this version does not know.
        """
        for raw in self.raw_records(after_seq, up_to_seq):
            yield self.decode(raw)

    def decode(self, raw: bytes) -> JournalRecord:
        """Decode a good record.

        Raises:
            JournalCorruptError: this version does not know its kind.
        """
        try:
            return codec.decode(raw)
        except ValueError as error:
            seq = int.from_bytes(raw[:8], "little")
            raise JournalCorruptError(self.path, seq=seq, offset=seq * RECORD_BYTES, why=str(error)) from None

    def tail(self, after_seq: int = 0, crc: int | None = None) -> Tail:
        """Check every record, or those after one whose CRC is known, and find where the good ones end.

        Raises:
            JournalCorruptError: a record that is no torn tail does not hold.
        """
        seq, crc = after_seq, self.header_crc if crc is None else crc
        for raw in self.raw_records(seq, crc=crc):
            seq += 1
            crc = codec.crc_of(raw)
        return self.ended_at(seq, crc)

    def ended_at(self, seq: int, crc: int) -> Tail:
        """The tail where a record is the last good one."""
        end = (seq + 1) * RECORD_BYTES
        return Tail(seq, crc, end, max(0, self.size_bytes - end))

    def sequences_of(self, kind: codec.Kind, after_seq: int = 0) -> Iterator[int]:
        """Sequences whose record states a kind: a scan of one byte a record, unchecked."""
        seq = after_seq
        while data := os.pread(self._fd, _CHUNK_BYTES, (seq + 1) * RECORD_BYTES):
            kinds = data[: len(data) // RECORD_BYTES * RECORD_BYTES][KIND_OFFSET::RECORD_BYTES]
            found = kinds.find(kind)
            while found >= 0:
                yield seq + 1 + found
                found = kinds.find(kind, found + 1)
            if not kinds:
                return
            seq += len(kinds)

    def refuse_unless_torn(self, seq: int) -> None:
        """Raise unless everything from before this record's CRC to the end of the file is zero."""
        offset = seq * RECORD_BYTES
        position = offset + BODY_BYTES
        while data := os.pread(self._fd, _CHUNK_BYTES, position):
            if data.strip(b"\0"):
                raise JournalCorruptError(self.path, seq=seq, offset=offset, why="its CRC or its sequence fails")
            position += len(data)
