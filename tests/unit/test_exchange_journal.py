"""The journal's file: torn tails cut back, damage refused, one writer, nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange.codec import RECORD_BYTES
from engine.exchange.errors import (
    JournalBrokenError,
    JournalCorruptError,
    JournalLockedError,
    JournalMismatchError,
    JournalWriteError,
)
from engine.exchange.events import Side
from engine.exchange.journal import JournalReader, header_bytes, journal_path
from engine.exchange.journal_writer import JournalWriter

FIRST_DAY = 20514
RECORDS = 12


def command_of(number: int) -> cmd.Command:
    return cmd.NewOrder(number, 3, Side.SELL, number * 1000, number, cmd.TimeInForce.IOC, f"ref-{number}")


def write(directory: Path, count: int = RECORDS) -> bytes:
    writer = JournalWriter(directory, first_day=FIRST_DAY)
    for number in range(1, count + 1):
        writer.append(command_of(number), 1_000_000 + number)
    writer.close()
    return journal_path(directory).read_bytes()


def read(directory: Path) -> list[int]:
    with JournalReader(journal_path(directory)) as reader:
        return [record.seq for record in reader.records()]


def test_what_was_written_is_read_back_from_any_sequence(tmp_path: Path) -> None:
    write(tmp_path)
    with JournalReader(journal_path(tmp_path)) as reader:
        assert reader.first_day == FIRST_DAY
        assert [r.command for r in reader.records()] == [command_of(n) for n in range(1, RECORDS + 1)]
        for after in range(RECORDS + 2):
            assert [r.seq for r in reader.records(after)] == list(range(after + 1, RECORDS + 1))
            assert [r.seq for r in reader.records(0, after)] == list(range(1, min(after, RECORDS) + 1))


def test_torn_tail_is_ignored_by_readers_and_cut_back_by_the_writer_at_every_byte(tmp_path: Path) -> None:
    whole = write(tmp_path)
    path = journal_path(tmp_path)
    for size in range(len(whole) - 2 * RECORD_BYTES, len(whole)):
        path.write_bytes(whole[:size])
        good = size // RECORD_BYTES - 1
        assert read(tmp_path) == list(range(1, good + 1))
        writer = JournalWriter(tmp_path, first_day=FIRST_DAY)
        assert (writer.last_seq, writer.torn_bytes) == (good, size % RECORD_BYTES)
        for number in range(good + 1, RECORDS + 1):
            writer.append(command_of(number), 1_000_000 + number)
        writer.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("zeros", [1, 31, 160, 161, 480, 5000])
def test_tail_of_zeros_that_never_reached_the_disk_is_cut_back(tmp_path: Path, zeros: int) -> None:
    whole = write(tmp_path)
    for keep in (0, 32, 96):  # sector boundaries fall on multiples of 32 within a record
        journal_path(tmp_path).write_bytes(whole[: len(whole) - RECORD_BYTES + keep] + bytes(zeros + 160 - keep))
        assert read(tmp_path) == list(range(1, RECORDS))
        JournalWriter(tmp_path, first_day=FIRST_DAY).close()
        assert journal_path(tmp_path).read_bytes() == whole[:-RECORD_BYTES]


def test_a_flipped_bit_anywhere_is_refused_with_its_offset(tmp_path: Path) -> None:
    whole = write(tmp_path)
    path = journal_path(tmp_path)
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(JournalCorruptError) as caught:
            JournalWriter(tmp_path, first_day=FIRST_DAY)
        seq = position // RECORD_BYTES
        # A damaged CRC is that record's, as the next one is seeded with what the record states.
        assert (caught.value.seq, caught.value.offset) == (seq, seq * RECORD_BYTES)
        assert str(path) in str(caught.value)
        assert path.read_bytes() == damaged, "a refused journal is left as it is"


def test_complete_last_record_that_fails_is_refused_since_it_may_be_acknowledged(tmp_path: Path) -> None:
    whole = write(tmp_path)
    for position in range(len(whole) - RECORD_BYTES, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        journal_path(tmp_path).write_bytes(damaged)
        with pytest.raises(JournalCorruptError):
            read(tmp_path)


def test_record_left_out_or_swapped_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path)
    path = journal_path(tmp_path)
    part = [whole[n : n + RECORD_BYTES] for n in range(0, len(whole), RECORD_BYTES)]
    for order in ([*part[:4], *part[5:]], [*part[:4], part[5], part[4], *part[6:]], [*part[:4], part[3], *part[4:]]):
        path.write_bytes(b"".join(order))
        with pytest.raises(JournalCorruptError):
            read(tmp_path)


def test_second_writer_is_refused_and_told_the_holder(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, first_day=FIRST_DAY)
    with pytest.raises(JournalLockedError, match=f"process {os.getpid()}"):
        JournalWriter(tmp_path, first_day=FIRST_DAY)
    writer.close()
    JournalWriter(tmp_path, first_day=FIRST_DAY).close()


def test_journal_of_another_first_day_is_refused_and_its_lock_given_back(tmp_path: Path) -> None:
    write(tmp_path)
    for _ in range(2):
        with pytest.raises(JournalMismatchError, match="2026-03-02, not 2026-03-03"):
            JournalWriter(tmp_path, first_day=FIRST_DAY + 1)


def test_header_of_no_date_is_refused(tmp_path: Path) -> None:
    for first_day in (-1, 2**20, 2**62):
        journal_path(tmp_path).write_bytes(header_bytes(first_day))
        with pytest.raises(JournalCorruptError, match=f"first day {first_day}"):
            JournalReader(journal_path(tmp_path))


def test_reader_beside_a_writer_sees_committed_records_and_then_more(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, first_day=FIRST_DAY)
    writer.append(command_of(1), 1)
    with JournalReader(journal_path(tmp_path)) as reader:
        assert list(reader.records()) == []
        writer.commit()
        assert [r.seq for r in reader.records()] == [1]
        writer.append(command_of(2), 2)
        writer.commit()
        assert [r.seq for r in reader.records(1)] == [2]
    writer.close()


def test_full_disk_leaves_nothing_half_written_and_ends_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, first_day=FIRST_DAY)
    writer.append(command_of(1), 1)
    writer.commit()
    before = journal_path(tmp_path).read_bytes()
    real = os.pwrite
    calls = []

    def short_then_full(fd: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:200], offset)

    for number in range(2, 6):
        writer.append(command_of(number), number)
    monkeypatch.setattr(os, "pwrite", short_then_full)
    with pytest.raises(JournalWriteError, match="No space left") as caught:
        writer.commit()
    assert str(journal_path(tmp_path)) in str(caught.value)
    monkeypatch.undo()
    # The last is the commit log, which could not be emptied either.
    assert calls == [2 * RECORD_BYTES, 2 * RECORD_BYTES + 200, 0]
    assert journal_path(tmp_path).read_bytes() == before
    with pytest.raises(JournalBrokenError):
        writer.append(command_of(6), 6)
    writer.close()
    again = JournalWriter(tmp_path, first_day=FIRST_DAY)
    assert again.last_seq == 1
    again.close()


def test_file_that_may_grow_no_further_is_cut_back_to_the_last_group(tmp_path: Path) -> None:
    program = f"""
import resource, signal
from pathlib import Path
from engine.exchange import commands as cmd
from engine.exchange.errors import JournalWriteError
from engine.exchange.journal_writer import JournalWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = JournalWriter(Path({str(tmp_path)!r}), first_day={FIRST_DAY})
for n in range(10):
    writer.append(cmd.OpenAccount(n, f"u-{{n}}"), n)
writer.commit()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for n in range(100):
    writer.append(cmd.OpenAccount(n, f"v-{{n}}"), n)
try:
    writer.commit()
except JournalWriteError as error:
    print("refused", error)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused"), done.stderr
    assert journal_path(tmp_path).stat().st_size == 11 * RECORD_BYTES
    assert read(tmp_path) == list(range(1, 11))


def test_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"journal\.bin"):
        JournalReader(journal_path(tmp_path))


@pytest.mark.parametrize(
    "command",
    [
        cmd.OpenAccount(1, "Upper"),
        cmd.OpenAccount(1, ""),
        cmd.OpenAccount(1, "a" * 65),
        cmd.OpenAccount(-1, "a"),
        cmd.OpenAccount(2**64, "a"),
        cmd.Deposit(1, 1, -1, "r"),
        cmd.Deposit(1, 1, 2**127, "r"),
        cmd.Deposit(1, 1, 1, ""),
        cmd.Deposit(1, 1, 1, "é"),
        cmd.Deposit(1, 1, 1, "a\tb"),
        cmd.Deposit(1, 1, 1, "r" * 65),
        cmd.Deposit(1, 65536, 1, "r"),
        cmd.NewOrder(1, 1, Side.BUY, 2**63, 1, cmd.TimeInForce.GTC),
        cmd.NewOrder(1, 1, 2, 1, 1, cmd.TimeInForce.GTC),  # type: ignore[arg-type]
        cmd.NewOrder(1, 1, Side.BUY, 1, 1, 7),  # type: ignore[arg-type]
        cmd.NewOrder(1, 1, Side.BUY, 1.5, 1, cmd.TimeInForce.GTC),  # type: ignore[arg-type]
        cmd.SetAsset(1, "usdt", 6),
        "not a command",
    ],
)
def test_command_that_does_not_fit_a_record_is_refused_before_it_is_sequenced(
    tmp_path: Path, command: cmd.Command
) -> None:
    writer = JournalWriter(tmp_path, first_day=FIRST_DAY)
    with pytest.raises(InputError):
        writer.append(command, 1)
    assert writer.last_seq == 0
    writer.append(command_of(1), 1)
    writer.close()
    assert read(tmp_path) == [1]
