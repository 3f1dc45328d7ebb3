"""The journal written: one writer, group commit, nothing half-written.

What belongs here: the lock, appending, fsync, cutting back a torn tail or a failed group.
What does not: the order and time of commands (see `sequencer`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

from engine.clock import from_day_number
from engine.exchange import codec
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Command
from engine.exchange.errors import JournalBrokenError, JournalLockedError, JournalMismatchError, JournalWriteError
from engine.exchange.journal import JournalReader, header_bytes, journal_path

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
            write_atomically(self.path, header_bytes(first_day))
        with JournalReader(self.path) as reader:
            if reader.first_day != first_day:
                there, asked = from_day_number(reader.first_day), from_day_number(first_day)
                raise JournalMismatchError(
                    f"journal {self.path} begins on {there}, not {asked}",
                    rule="a book has one first day",
                    next_step="use that first day, or another directory",
                )
            tail = reader.tail()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self.torn_bytes = tail.torn_bytes
        if tail.torn_bytes:
            os.ftruncate(self._fd, tail.end)
        # What a killed writer left may be good and not yet on the disk; it is built upon from here.
        os.fsync(self._fd)
        self._committed = tail.end
        self.last_seq = tail.seq
        self.last_crc = tail.crc

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
        """Write and fsync what was appended, whole or not at all.

        Raises:
            JournalWriteError: the disk refused; the group was cut back and this writer is done.
            JournalBrokenError: an earlier write failed.
        """
        if self._broken:
            raise JournalBrokenError(self.path)
        if not self._buffer:
            return
        try:
            written = 0
            view = memoryview(self._buffer)
            while written < len(view):
                written += os.pwrite(self._fd, view[written:], self._committed + written)
            os.fsync(self._fd)
        except OSError as error:
            self._broken = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._committed)
                os.fsync(self._fd)
            raise JournalWriteError(self.path, error) from None
        self._committed += written
        # A new buffer rather than clear(): the view above still exports the old one.
        self._buffer = bytearray()

    def close(self) -> None:
        """Commit and release the lock; after a failure only release."""
        try:
            if self._fd >= 0 and not self._broken:
                self.commit()
        finally:
            self._release()

    def abandon(self) -> None:
        """Release the lock without committing: what a killed process would leave."""
        self._broken = True
        self._release()

    def _release(self) -> None:
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
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole: temporary name, fsync, rename, fsync of the directory.

    Raises:
        OSError: the disk refused; no file of that name appears and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
