"""What can go wrong with the journal and its snapshots, as typed errors.

What belongs here: errors that carry a path, a sequence or an offset of the exchange's files.
What does not: refusals of commands (those are `Rejected` events) and malformed input (`engine.errors.InputError`).
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import ConfigError, UncheckedError


class JournalCorruptError(UncheckedError):
    """A record inside the journal does not hold; nothing after it can be trusted, so the journal does not load."""

    def __init__(self, path: Path, *, seq: int, offset: int, why: str) -> None:
        self.path = path
        self.seq = seq
        self.offset = offset
        super().__init__(
            f"journal {path}: record {seq} at byte {offset} is corrupt: {why}",
            rule="every record's CRC-32 is chained to the record before it, without gaps in the sequence",
            next_step="restore the file from a replica; do not cut it by hand, the record may be acknowledged",
        )


class JournalLockedError(UncheckedError):
    """Another process writes this journal."""

    def __init__(self, path: Path, holder: str) -> None:
        self.path = path
        self.holder = holder
        super().__init__(
            f"journal {path} is being written by {holder}",
            rule="a journal has one writer",
            next_step="stop that process, or send the commands to it",
        )


class JournalWriteError(UncheckedError):
    """The disk refused a write (full, read-only, gone); what was not committed has been cut back."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        super().__init__(
            f"{error.filename or path}: not written: {error.strerror or error}",
            rule="a command counts once its group is on the disk; this group was taken back whole",
            next_step="free or repair the disk, open the exchange again and resend what was not acknowledged",
        )


class JournalBrokenError(UncheckedError):
    """A writer that failed before is used again: memory is ahead of the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"journal {path}: an earlier write failed, so the engine in memory is ahead of the disk",
            next_step="close this writer and open the exchange again: it recovers from the journal",
        )


class JournalBehindError(UncheckedError):
    """The ledger has settled commands that the journal does not hold: it is an older copy, or it lost its end."""

    def __init__(self, path: Path, settled_seq: int) -> None:
        self.path = path
        super().__init__(
            f"journal {path} does not reach record {settled_seq}, to which the ledger is settled",
            rule="the ledger follows the journal: what would be journalled there now would never be settled",
            next_step="put the journal that goes so far in its place, with its commits.log; or, where the rest is to"
            " be forgotten, restore the database of the same moment too",
        )


class SnapshotCorruptError(UncheckedError):
    """A snapshot file does not hold; recovery uses an older one or the journal's start."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(
            f"snapshot {path} cannot be used: {why}",
            rule="magic, version, SHA-256 and the journal's CRC at its sequence must hold",
            next_step="delete the file: it is rebuilt from the journal",
        )


class JournalMismatchError(ConfigError):
    """A journal exists and is not the one that was meant (another first day, seed or tape)."""
