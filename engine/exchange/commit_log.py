"""The commit log: the newest groups of a journal once more, in a file that never grows.

What belongs here: the file, what of it belongs behind a journal's end, and the refusal to take that end for the newest.
What does not: when a group goes here or is fsynced in the journal (see `journal_writer`).

An fsync of a file that grew waits for its data and then for the file system's own journal, since the size changed. Into
space that was written before, the data goes alone. So a group is durable by being here, and the journal, which is
written first, by its next fsync. The log holds the same records, so the same chain proves them: what follows the first
that does not chain is older, or a group that was never acknowledged.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from engine.errors import InputError, UncheckedError
from engine.exchange import codec
from engine.exchange.codec import RECORD_BYTES
from engine.exchange.errors import JournalCorruptError
from engine.exchange.journal import JournalReader, Tail
from engine.exchange.whole_file import write_atomically, write_whole

LOG_NAME = "commits.log"
SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""
LOG_BYTES = RECORD_BYTES * 6_400
"""One mebibyte less a little. An fsync of the journal falls due whenever so much was committed."""


class Run(NamedTuple):
    """Consecutive good records, and the sequence of the first."""

    first_seq: int
    raw: bytes

    @property
    def last_seq(self) -> int:
        """The sequence of the last record."""
        return self.first_seq - 1 + len(self.raw) // RECORD_BYTES

    @property
    def last_crc(self) -> int:
        """Its CRC."""
        return codec.crc_of(self.raw[-RECORD_BYTES:])


def run_of(data: bytes, journal: JournalReader, tail: Tail) -> Run | None:
    """The records of a log that chain to a journal's; None where there are none.

    Args:
        data: what the log holds.
        journal: its journal.
        tail: where that ends.

    Raises:
        JournalCorruptError: the journal ends before the log begins, so it lost what was durable.
    """
    first = int.from_bytes(data[:8], "little")
    if not first:
        return None
    if first > tail.seq + 1:
        why = f"the journal ends before it, but {LOG_NAME} beside it begins with record {first}"
        raise JournalCorruptError(journal.path, seq=tail.seq + 1, offset=tail.end, why=why)
    crc, end = journal.crc_at(first - 1), 0
    assert crc is not None, "a record before the tail's end is there"
    for seq, start in enumerate(range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES), start=first):
        raw = data[start : start + RECORD_BYTES]
        if not codec.is_good(raw, seq, crc):
            break
        crc, end = codec.crc_of(raw), start + RECORD_BYTES
    both = min(end, tail.end - first * RECORD_BYTES)
    # Another record where the journal has a good one: this is the log of another history.
    return Run(first, data[:end]) if end and journal.raw_between(first, both) == data[:both] else None


def read_log(journal: Path) -> bytes:
    """What the log beside a journal holds, for one who then reads the journal, and is shown all of it there.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return journal.with_name(LOG_NAME).read_bytes()[:LOG_BYTES]
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(
            f"{journal.with_name(LOG_NAME)}: {error.strerror}",
            rule="the newest records may be there alone",
            next_step="make it readable to this user, or replay a copy of the journal alone",
        ) from None


def refuse_unless_put_back(log: bytes, journal: JournalReader, tail: Tail) -> None:
    """Refuse a journal to whose end its log has more, once read: it lost power, and was not opened since.

    Raises:
        UncheckedError: the log goes on behind it.
        JournalCorruptError: the journal ends before the log begins.
    """
    run = run_of(log, journal, tail)
    if run is not None and run.last_seq > tail.seq:
        raise UncheckedError(
            f"journal {journal.path} ends with record {tail.seq}, and {LOG_NAME} beside it goes on to {run.last_seq}",
            rule="after a power cut the newest records are in the commit log alone, until the exchange is started",
            next_step="start the exchange: it puts them back; or replay a copy of the journal alone",
        )


def _only_lacks_sectors(journal: JournalReader, run: Run) -> bool:
    """Whether a journal lacks sectors of what its log holds, and differs in nothing else.

    One that the disk never got reads as zeros; one that it got when the journal ended within, as that and zeros.
    """
    begin = run.first_seq * RECORD_BYTES
    there, start = journal.raw_between(run.first_seq, len(run.raw)), 0
    while start < len(there):
        end = (begin + start) // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - begin
        if not run.raw[start:end].startswith(there[start:end].rstrip(b"\0")):
            return False
        start = end
    return True


class CommitLog:
    """The commit log of an exchange's directory, for the writer of its journal alone."""

    def __init__(self, directory: Path) -> None:
        """Open the log, or make one that holds nothing.

        Raises:
            OSError: the disk refused.
        """
        self.path = directory / LOG_NAME
        if not self.path.exists():
            write_atomically(self.path, bytes(LOG_BYTES))
        # Each write waits for the disk, but not for what a reader would not miss, as the time of the change.
        self._fd = os.open(self.path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
        self._end = 0
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            # A device takes every write, and keeps none.
            os.close(self._fd)
            raise OSError(errno.EINVAL, "no regular file", str(self.path))

    def end_of(self, journal: JournalReader) -> tuple[Tail, Run | None]:
        """Where a journal ends, and the records here that chain to it, which are to be written over it.

        A record that does not hold there and stands here may be one that the disk never got, though it got what
        follows: so it can be after a write in the background that failed, and where a file system keeps no order. Then
        whole sectors are missing. Any other difference is damage, which nobody repairs unseen.

        Raises:
            JournalCorruptError: a record does not hold, and is not here; or the journal lost what was durable.
        """
        data = os.pread(self._fd, LOG_BYTES, 0)
        try:
            tail = journal.tail()
        except JournalCorruptError as damage:
            before = journal.crc_at(damage.seq - 1)
            assert before is not None, "the record before a bad one is there"
            run = run_of(data, journal, journal.ended_at(damage.seq - 1, before))
            if run is None or run.last_seq < damage.seq or not _only_lacks_sectors(journal, run):
                raise
            return journal.tail(run.last_seq, run.last_crc), run
        return tail, run_of(data, journal, tail)

    def append(self, group: bytes) -> bool:
        """Put a group behind the last one, on the disk; false where there is no room, and then nothing was done.

        Raises:
            OSError: the disk refused.
        """
        if self._end + len(group) > LOG_BYTES:
            return False
        write_whole(self._fd, group, self._end)
        self._end += len(group)
        return True

    def rewind(self) -> None:
        """Begin anew with the next group: the journal itself is durable up to here."""
        self._end = 0

    def clear(self) -> None:
        """Hold nothing.

        Raises:
            OSError: the disk refused.
        """
        self.rewind()
        if any(os.pread(self._fd, 8, 0)):
            write_whole(self._fd, bytes(RECORD_BYTES), 0)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)
