"""Power lost at any moment: what was acknowledged is there, and nothing that was not sent.

A killed process leaves what it wrote with the system. A machine without power leaves what its disk had, which is less:
here every write and fsync passes a model of that, and the files are put back as the disk may have them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import CutOffRule, from_day_number, to_us
from engine.errors import UncheckedError
from engine.exchange import commands as cmd
from engine.exchange import commit_log
from engine.exchange.codec import RECORD_BYTES
from engine.exchange.commit_log import LOG_NAME
from engine.exchange.conformance import EngineName
from engine.exchange.errors import JournalCorruptError, JournalWriteError
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.journal_writer import JournalWriter
from engine.exchange.replay import replay
from engine.exchange.sequencer import open_exchange
from engine.service.telling import CURSOR_NAME, begin_cursor, read_cursor
from engine.steps.cutoff import barrier_of

FIRST_DAY = 20514
SECTOR = 512
HELD = 10
"""Records that the log has room for here, so that it begins anew often."""


class PowerLostError(BaseException):
    """Nothing happens after this."""


class Disk:
    """Keeps what was waited for, and loses power at the n-th call.

    Attributes:
        kept: by file, what the disk surely has.
    """

    def __init__(self, patch: pytest.MonkeyPatch, calls: int) -> None:
        self.kept: dict[Path, bytes] = {}
        self._left = calls
        self._pwrite, self._fsync, self._ftruncate = os.pwrite, os.fsync, os.ftruncate
        patch.setattr(os, "pwrite", self.pwrite)
        patch.setattr(os, "fsync", self.fsync)
        patch.setattr(os, "ftruncate", self.ftruncate)

    def _call(self, fd: int) -> Path:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.is_file() and path not in self.kept:
            self.kept[path] = path.read_bytes()
        if self._left < 0:
            raise PowerLostError
        self._left -= 1
        return path

    def _lost(self) -> None:
        if self._left < 0:
            raise PowerLostError

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        path = self._call(fd)
        written = self._pwrite(fd, data, offset)
        self._lost()
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC:
            self.kept[path] = path.read_bytes()
        return written

    def fsync(self, fd: int) -> None:
        path = self._call(fd)
        self._lost()
        if path.is_file():
            self.kept[path] = path.read_bytes()

    def ftruncate(self, fd: int, size: int) -> None:
        self._call(fd)
        self._ftruncate(fd, size)
        self._lost()

    def put_back(self, chance: random.Random) -> None:
        """Leave the files as the disk may have them: what grew up to any byte or in zeros, the rest by sectors."""
        for path, kept in self.kept.items():
            now = path.read_bytes()
            if len(now) < len(kept):
                path.write_bytes(chance.choice((now, kept)))
                continue
            found = bytearray(now[: chance.randint(len(kept), len(now))])
            for start in range(0, len(kept), SECTOR):
                if chance.random() < 0.5:
                    found[start : start + SECTOR] = kept[start : start + SECTOR] + found[len(kept) : start + SECTOR]
            lost_from = max(len(kept), chance.randrange(len(found) + SECTOR) // SECTOR * SECTOR)
            found[lost_from:] = bytes(len(found[lost_from:]))
            path.write_bytes(found)


def command_of(number: int) -> cmd.Command:
    return cmd.OpenAccount(number, f"u-{number}")


def write(directory: Path, groups: Iterator[int], told: list[int]) -> None:
    """Open, commit group after group, note each last sequence that counts."""
    writer = JournalWriter(directory, first_day=FIRST_DAY)
    try:
        told.append(writer.last_seq)
        for size in groups:
            for _ in range(size):
                writer.append(command_of(writer.last_seq + 1), 1)
            writer.commit()
            told.append(writer.last_seq)
        writer.close()
    finally:
        writer.abandon()


def numbers(directory: Path) -> list[int]:
    with JournalReader(journal_path(directory)) as reader:
        records = list(reader.records())
    assert [record.command for record in records] == [command_of(record.seq) for record in records]
    return [record.seq for record in records]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 14), min_size=1, max_size=12),
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_what_was_acknowledged_is_there_after_power_was_lost_anywhere(
    groups: list[int], cuts: list[int], chance: random.Random
) -> None:
    told = [0]
    waiting = iter(groups)
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        directory = Path(name).resolve()
        patch.setattr(commit_log, "LOG_BYTES", HELD * RECORD_BYTES)
        JournalWriter(directory, first_day=FIRST_DAY).close()
        for calls in cuts:
            with pytest.MonkeyPatch.context() as lossy:
                disk = Disk(lossy, calls)
                with contextlib.suppress(PowerLostError):
                    write(directory, waiting, told)
            disk.put_back(chance)
            numbers(directory)
        write(directory, waiting, told)
        assert numbers(directory) == list(range(1, told[-1] + 1))
    assert told == sorted(told), "what counted once still counts after each loss"


def begun(directory: Path, groups: int, size: int = 2) -> JournalWriter:
    """A writer that committed so many groups and is still open."""
    writer = JournalWriter(directory, first_day=FIRST_DAY)
    for _ in range(groups):
        for _ in range(size):
            writer.append(command_of(writer.last_seq + 1), 1)
        writer.commit()
    return writer


def after_opening(directory: Path) -> list[int]:
    JournalWriter(directory, first_day=FIRST_DAY).close()
    return numbers(directory)


@pytest.mark.parametrize("lost", [1, 32, 159, 160, 161, 896, 8 * RECORD_BYTES])
def test_journal_that_lost_its_end_has_it_again_when_it_is_opened(tmp_path: Path, lost: int) -> None:
    begun(tmp_path, 4).abandon()
    whole = journal_path(tmp_path).read_bytes()
    # Zeros for what was lost come in sectors, and those begin at multiples of 32 within a record.
    for tail in (b"", bytes(lost)) if lost % 32 == 0 else (b"",):
        journal_path(tmp_path).write_bytes(whole[:-lost] + tail)
        assert numbers(tmp_path) == list(range(1, 9 - -(-lost // RECORD_BYTES)))
        shutil.copytree(tmp_path, tmp_path / "again", dirs_exist_ok=True)
        assert after_opening(tmp_path / "again") == list(range(1, 9))
        assert journal_path(tmp_path / "again").read_bytes() == whole


@pytest.mark.parametrize("engine", EngineName)
def test_replay_of_a_journal_that_was_not_put_back_says_so(tmp_path: Path, engine: EngineName) -> None:
    begun(tmp_path, 4).abandon()
    assert replay(tmp_path, engine).commands == 8
    whole = journal_path(tmp_path).read_bytes()
    journal_path(tmp_path).write_bytes(whole[: -3 * RECORD_BYTES])
    for until in (None, from_day_number(FIRST_DAY)):
        with pytest.raises(UncheckedError, match=f"ends with record 5, and {LOG_NAME} beside it goes on to 8"):
            replay(tmp_path, engine, until=until)
    shutil.copy(journal_path(tmp_path), tmp_path / "copy.bin")
    assert replay(tmp_path / "copy.bin", engine).commands == 5
    assert after_opening(tmp_path) == list(range(1, 9))
    assert replay(tmp_path, engine).commands == 8


def test_closed_journal_is_whole_by_itself(tmp_path: Path) -> None:
    begun(tmp_path, 4).close()
    whole = journal_path(tmp_path).read_bytes()
    journal_path(tmp_path).write_bytes(whole[: -3 * RECORD_BYTES])
    assert after_opening(tmp_path) == [1, 2, 3, 4, 5], "what is cut off a closed journal is not put back"
    (tmp_path / LOG_NAME).unlink()
    assert after_opening(tmp_path) == [1, 2, 3, 4, 5]


def test_journal_that_ends_before_its_commit_log_begins_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "LOG_BYTES", HELD * RECORD_BYTES)
    begun(tmp_path, 7).abandon()  # the log begins anew with the seventh group, after record 12
    whole = journal_path(tmp_path).read_bytes()
    journal_path(tmp_path).write_bytes(whole[: -3 * RECORD_BYTES])
    left = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(JournalCorruptError, match=f"{LOG_NAME} beside it begins with record 13") as caught:
        JournalWriter(tmp_path, first_day=FIRST_DAY)
    assert (caught.value.seq, caught.value.offset) == (12, 12 * RECORD_BYTES)
    assert {path: path.read_bytes() for path in left} == left


def test_log_of_another_history_is_left_out(tmp_path: Path) -> None:
    for name, account in (("one", 1), ("other", 2)):
        writer = JournalWriter(tmp_path / name, first_day=FIRST_DAY)
        for number in (account, 3):
            writer.append(command_of(number), 1)
            writer.commit()
        writer.abandon()
    whole = journal_path(tmp_path / "one").read_bytes()
    shutil.copy(tmp_path / "other" / LOG_NAME, tmp_path / "one")
    JournalWriter(tmp_path / "one", first_day=FIRST_DAY).close()
    assert journal_path(tmp_path / "one").read_bytes() == whole


def test_log_that_lost_its_journal_gives_back_what_it_has_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "all", 3).abandon()
    journal_path(tmp_path / "all").unlink()
    assert after_opening(tmp_path / "all") == list(range(1, 7))
    monkeypatch.setattr(commit_log, "LOG_BYTES", HELD * RECORD_BYTES)
    begun(tmp_path / "end", 7).abandon()
    journal_path(tmp_path / "end").unlink()
    left = (tmp_path / "end" / LOG_NAME).read_bytes()
    for _ in range(2):
        with pytest.raises(JournalCorruptError, match=f"{LOG_NAME} beside it begins with record 13"):
            JournalWriter(tmp_path / "end", first_day=FIRST_DAY)
    assert (tmp_path / "end" / LOG_NAME).read_bytes() == left


@pytest.mark.parametrize("hole", [range(1, 2), range(1, 3), range(3, 4), range(1, 4)])
@pytest.mark.parametrize("more", [0, 2])
def test_sectors_that_the_disk_never_got_are_filled_from_the_log(tmp_path: Path, hole: range, more: int) -> None:
    """What a write in the background left out, where a later one went well."""
    begun(tmp_path, 6).abandon()
    log = (tmp_path / LOG_NAME).read_bytes()
    begun(tmp_path, more // 2).abandon()
    whole = journal_path(tmp_path).read_bytes()
    # As if those came into the journal alone, whose fsync they waited for.
    (tmp_path / LOG_NAME).write_bytes(log)
    start, end = hole.start * SECTOR, hole.stop * SECTOR
    lost = whole[:start] + bytes(end - start) + whole[end:]
    journal_path(tmp_path).write_bytes(lost[: len(whole)])
    with contextlib.suppress(JournalCorruptError):
        assert len(numbers(tmp_path)) < 12 + more
    assert after_opening(tmp_path) == list(range(1, 13 + more))
    assert journal_path(tmp_path).read_bytes() == whole


@pytest.mark.parametrize(("ended", "later"), [(5, 2), (5, 3), (9, 3), (11, 4)])
def test_sector_that_the_disk_got_before_it_was_full_is_filled_too(tmp_path: Path, ended: int, later: int) -> None:
    """What a journal ended with was written in the background, then appended to; of this the disk got the end alone."""
    begun(tmp_path, 8).abandon()
    whole = journal_path(tmp_path).read_bytes()
    start, end = ended * RECORD_BYTES, later * SECTOR
    journal_path(tmp_path).write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    with pytest.raises(JournalCorruptError):
        numbers(tmp_path)
    assert after_opening(tmp_path) == list(range(1, 17))
    assert journal_path(tmp_path).read_bytes() == whole


@pytest.mark.parametrize("damaged", range(1, 9))
@pytest.mark.parametrize("change", [b"old", bytes(3), b"\x02"])
def test_damage_is_refused_also_where_the_log_has_the_record(tmp_path: Path, damaged: int, change: bytes) -> None:
    """Bytes that changed by themselves are not what a disk leaves out."""
    begun(tmp_path, 4).abandon()
    log = (tmp_path / LOG_NAME).read_bytes()
    whole = bytearray(journal_path(tmp_path).read_bytes())
    at = damaged * RECORD_BYTES + 8
    assert whole[at : at + len(change)] != change
    whole[at : at + len(change)] = change
    journal_path(tmp_path).write_bytes(whole)
    with pytest.raises(JournalCorruptError) as caught:
        JournalWriter(tmp_path, first_day=FIRST_DAY)
    assert (caught.value.seq, caught.value.offset) == (damaged, damaged * RECORD_BYTES)
    assert journal_path(tmp_path).read_bytes() == whole
    assert (tmp_path / LOG_NAME).read_bytes() == log


def test_fsync_that_failed_and_then_lies_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed write the system drops what it could not write, and its next fsync says that all is well."""
    monkeypatch.setattr(commit_log, "LOG_BYTES", HELD * RECORD_BYTES)
    writer = begun(tmp_path, 5)
    writer.append(command_of(11), 1)

    def refused(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", lambda fd: None)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(JournalWriteError, match="Input/output error"):
        writer.commit()
    writer.close()
    monkeypatch.undo()
    monkeypatch.setattr(commit_log, "LOG_BYTES", HELD * RECORD_BYTES)
    whole = journal_path(tmp_path).read_bytes()
    journal_path(tmp_path).write_bytes(whole[: 4 * RECORD_BYTES])
    assert after_opening(tmp_path) == list(range(1, 11))


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_close_takes_back_what_was_settled_and_leaves_its_barrier_on_the_disk(
    tmp_path: Path, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rule = from_day_number(FIRST_DAY), CutOffRule(24, 0, "UTC")
    sequencer = open_exchange(tmp_path, first_day=first, cutoff_rule=rule)
    ends = to_us(rule.instant(first))
    sequencer.submit(cmd.OpenAccount(1, "u-1"), ends - 1)
    sequencer.submit(cmd.OpenAccount(2, "u-2"), ends)
    sequencer.commit()
    assert isinstance(sequencer.sink, JournalWriter)
    sequencer.sink.abandon()
    whole = journal_path(tmp_path).read_bytes()  # day zero's cut-off, an account, the day's cut-off, an account
    journal_path(tmp_path).write_bytes(whole[: -lost * RECORD_BYTES])
    synced = []
    monkeypatch.setattr(JournalReader, "sync", lambda reader: synced.append(reader.size_bytes))
    found = barrier_of(tmp_path, first, first_day=first, cutoffs=rule, settled_seq=4)
    assert (found.seq, journal_path(tmp_path).read_bytes()) == (3, whole)
    assert synced == [len(whole)]


@pytest.mark.parametrize("place", ["directory", "device", "pipe"])
def test_what_is_no_file_in_the_logs_place_is_refused_by_name(tmp_path: Path, place: str) -> None:
    begun(tmp_path, 1).close()
    log = tmp_path / LOG_NAME
    log.unlink()
    if place == "directory":
        log.mkdir()
    elif place == "device":
        log.symlink_to("/dev/null")
    else:
        os.mkfifo(log)
    with pytest.raises(JournalWriteError, match=f"{LOG_NAME}: not written"):
        JournalWriter(tmp_path, first_day=FIRST_DAY)
    assert numbers(tmp_path) == [1, 2]


def test_place_of_the_telling_is_on_the_disk_from_the_start_and_never_jumps(tmp_path: Path) -> None:
    assert read_cursor(tmp_path) is None
    synced = []
    with pytest.MonkeyPatch.context() as patch:
        fsync = os.fsync
        patch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
        begin_cursor(tmp_path, 7)
    assert (read_cursor(tmp_path), len(synced)) == (7, 2)
    # What a power cut leaves of a file that was renamed and not waited for.
    (tmp_path / CURSOR_NAME).write_bytes(b"")
    assert read_cursor(tmp_path) == 0
