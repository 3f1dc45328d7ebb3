"""The journal written: one writer, group commit, nothing half-written.

What belongs here: the lock, appending, when a group counts as durable, cutting back a torn tail or a failed group.
What does not: the order and time of commands (see `sequencer`), the second file (see `commit_log`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

from engine.clock import from_day_number
from engine.exchange import codec
from engine.exchange.codec import RECORD_BYTES, JournalRecord
from engine.exchange.commands import Command
from engine.exchange.commit_log import CommitLog, Run
from engine.exchange.errors import JournalBrokenError, JournalLockedError, JournalMismatchError, JournalWriteError
from engine.exchange.journal import JournalReader, Tail, header_bytes, journal_path
from engine.exchange.whole_file import write_atomically, write_whole

LOCK_NAME = "journal.lock"
_GROUP_BYTES = 4 * 1024 * 1024


class Sink(Protocol):
    """Where a sequencer puts its records."""

    def append(self, command: Command, ts_us: int) -> JournalRecord:
        """Take the next record; it counts after `commit`."""
        ...

    def commit(self) -> None:
        """Make everything appended durable."""
        ...

    def close(self) -> None:
        """Commit and give back what is held."""
        ...


class JournalWriter:
    """The only writer of an exchange's journal."""

    def __init__(self, directory: Path, *, first_day: int) -> None:
        """Take the lock, create the journal or check it whole, and cut back a torn tail.

        Args:
            directory: the exchange's directory, created if absent.
            first_day: the first close date, as days since 1970.

        Raises:
            JournalLockedError: another process writes it.
            JournalMismatchError: the journal there has another first day.
            JournalCorruptError: a record inside does not hold.
            JournalWriteError: the disk refused.
        """
        self.path = journal_path(directory)
        self._fd = -1
        self._log: CommitLog | None = None
        self._broken = False
        self._buffer = bytearray()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(directory / LOCK_NAME, self.path)
        except OSError as error:
            raise JournalWriteError(self.path, error) from None
        try:
            self._open(directory, first_day)
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise JournalWriteError(self.path, error) from None
            raise

    def _open(self, directory: Path, first_day: int) -> None:
        if not self.path.exists():
            # A commit log without its journal is not removed: it may be all that is left of what was acknowledged.
            write_atomically(self.path, header_bytes(first_day))
        with JournalReader(self.path) as reader:
            if reader.first_day != first_day:
                there, asked = from_day_number(reader.first_day), from_day_number(first_day)
                raise JournalMismatchError(
                    f"journal {self.path} begins on {there}, not {asked}",
                    rule="a book has one first day",
                    next_step="use that first day, or another directory",
                )
            self._log = CommitLog(directory)
            tail, run = self._log.end_of(reader)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self.torn_bytes = tail.torn_bytes
        if tail.torn_bytes:
            os.ftruncate(self._fd, tail.end)
            # Before anything is written there: a power cut in between leaves no hole with records behind it.
            os.fsync(self._fd)
        if run is not None:
            tail = self._restore(run, tail)
        # What a killed writer left may be good and not yet on the disk; it is built upon from here.
        os.fsync(self._fd)
        self._log.clear()
        self._committed = tail.end
        self.last_seq = tail.seq
        self.last_crc = tail.crc

    def _restore(self, run: Run, tail: Tail) -> Tail:
        """Write what the commit log holds into the journal; where that ends then.

        Also what is there already: after an fsync that failed, the system shows bytes that the disk never got.
        """
        write_whole(self._fd, run.raw, run.first_seq * RECORD_BYTES)
        if run.last_seq <= tail.seq:
            return tail
        return Tail(run.last_seq, run.last_crc, (run.last_seq + 1) * RECORD_BYTES, 0)

    def append(self, command: Command, ts_us: int) -> JournalRecord:
        """Put a command at the end; durable after the next `commit`.

        Raises:
            InputError: the command does not fit a record; nothing was appended.
            JournalWriteError: the group grew too large to hold and the disk refused it.
            JournalBrokenError: an earlier write failed.
        """
        if self._broken:
            raise JournalBrokenError(self.path)
        raw, record = codec.encode(self.last_seq + 1, ts_us, command, self.last_crc)
        self._buffer += raw
        self.last_seq = record.seq
        self.last_crc = record.crc
        if len(self._buffer) >= _GROUP_BYTES:
            self.commit()
        return record

    def commit(self) -> None:
        """Make what was appended durable, whole or not at all.

        The journal is appended to, and the group goes into the commit log, for which the disk is waited. Where that
        has no room, the journal is fsynced, and the log begins anew.

        Raises:
            JournalWriteError: the disk refused; the group was cut back and this writer is done.
            JournalBrokenError: an earlier write failed.
        """
        if self._broken:
            raise JournalBrokenError(self.path)
        if not self._buffer:
            return
        assert self._log is not None, "an open writer has its log"
        group = bytes(self._buffer)
        try:
            write_whole(self._fd, group, self._committed)
            if not self._log.append(group):
                self._sync()
                self._log.rewind()
        except OSError as error:
            self._take_back()
            raise JournalWriteError(self.path, error) from None
        self._committed += len(group)
        self._buffer.clear()

    def _sync(self) -> None:
        """Make the journal durable by itself.

        Raises:
            OSError: the disk refused.
        """
        try:
            os.fsync(self._fd)
        except OSError:
            # The next fsync would say that all is well: only the log still has what the disk did not get.
            self._close_log()
            raise

    def _take_back(self) -> None:
        """Leave the journal as it was before the group that failed, and nothing of it in the log, if the disk lets."""
        self._broken = True
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._committed)
            os.fsync(self._fd)
            if self._log is not None:
                self._log.clear()

    def close(self) -> None:
        """Commit and release the lock; after a failure only release.

        What is closed is one file that holds everything: the commit log is empty.

        Raises:
            JournalWriteError: the disk refused.
        """
        try:
            if self._fd >= 0 and not self._broken:
                self.commit()
                self._settle()
        finally:
            self._release()

    def _settle(self) -> None:
        assert self._log is not None, "an open writer has its log"
        try:
            self._sync()
            self._log.clear()
        except OSError as error:
            raise JournalWriteError(self.path, error) from None

    def abandon(self) -> None:
        """Release the lock without committing: what a killed process would leave."""
        self._broken = True
        self._release()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _release(self) -> None:
        self._close_log()
        for name in ("_fd", "_lock"):
            if getattr(self, name, -1) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)


def _take_lock(lock_path: Path, journal: Path) -> int:
    """Lock a file beside the journal, with the holder's process id in it."""
    fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise JournalLockedError(journal, f"process {holder}") from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
