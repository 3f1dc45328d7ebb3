"""Snapshots beside a served exchange: the same bytes, in order, and taken later where they could not be."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from pathlib import Path

from engine.clock import CutOffRule, to_us
from engine.exchange import commands as cmd
from engine.exchange import snapshots
from engine.exchange.sequencer import Keep, Sequencer, open_exchange
from engine.service.snapshot_keeper import SnapshotKeeper

FIRST = date(2026, 3, 2)
RULE = CutOffRule.parse("24:00 UTC")
DAYS = 3
"""Dates that are cut off after day zero."""


def opened(directory: Path, keep: Keep | None = None) -> Sequencer:
    return open_exchange(directory, first_day=FIRST, cutoff_rule=RULE, keep=keep)


def live(sequencer: Sequencer, day: int) -> None:
    """Journal a date's accounts, and with the first of them the cut-off of the date before."""
    at_us = to_us(RULE.instant(FIRST + timedelta(days=day - 1)))
    for number in range(1, 20):
        sequencer.submit(cmd.OpenAccount(100 * day + number, f"u-{day}-{number}"), at_us)


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {one.path.name: one.path.read_bytes() for one in snapshots.listed(directory)}


async def until_taken(keeper: SnapshotKeeper) -> None:
    async with asyncio.timeout(60):
        while keeper.waiting:
            await asyncio.sleep(0.01)


def expected(directory: Path) -> dict[str, bytes]:
    with opened(directory) as sequencer:
        for day in range(DAYS + 1):
            live(sequencer, day)
    return bytes_of(directory)


def test_snapshots_of_a_process_beside_are_those_of_the_exchange_itself(tmp_path: Path) -> None:
    async def serve() -> None:
        keeper = SnapshotKeeper(tmp_path / "served")
        running = asyncio.create_task(keeper.run())
        with opened(tmp_path / "served", keeper.keep) as sequencer:
            live(sequencer, 0)
            assert not bytes_of(tmp_path / "served")
            assert keeper.waiting == 1
            await until_taken(keeper)
            assert len(bytes_of(tmp_path / "served")) == 1
            # Several at once, as of an exchange that was away.
            for day in range(1, DAYS + 1):
                live(sequencer, day)
            await until_taken(keeper)
        assert keeper.failed == 0
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(serve())
    found = bytes_of(tmp_path / "served")
    assert len(found) == DAYS + 1
    assert found == expected(tmp_path / "plain")


def test_what_was_not_taken_is_due_again_when_the_exchange_is_opened(tmp_path: Path) -> None:
    async def cut_short() -> None:
        keeper = SnapshotKeeper(tmp_path / "served")
        running = asyncio.create_task(keeper.run())
        with opened(tmp_path / "served", keeper.keep) as sequencer:
            for day in range(DAYS + 1):
                live(sequencer, day)
            await asyncio.sleep(0)
            # The process has been asked for, and cannot have begun.
            running.cancel()
            await asyncio.wait([running])
        assert not bytes_of(tmp_path / "served")

    async def again() -> None:
        keeper = SnapshotKeeper(tmp_path / "served")
        with opened(tmp_path / "served", keeper.keep):
            assert keeper.waiting == DAYS + 1
            running = asyncio.create_task(keeper.run())
            await until_taken(keeper)
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(cut_short())
    asyncio.run(again())
    assert bytes_of(tmp_path / "served") == expected(tmp_path / "plain")


def test_process_that_fails_is_counted_and_the_next_is_tried(tmp_path: Path) -> None:
    async def serve() -> None:
        directory = tmp_path / "served"
        keeper = SnapshotKeeper(directory)
        running = asyncio.create_task(keeper.run())
        with opened(directory, keeper.keep) as sequencer:
            (directory / snapshots.FOLDER).write_bytes(b"in the way")
            live(sequencer, 0)
            await until_taken(keeper)
            assert keeper.failed == 1
            (directory / snapshots.FOLDER).unlink()
            live(sequencer, 1)
            await until_taken(keeper)
        assert keeper.failed == 1
        assert len(bytes_of(directory)) == 1
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(serve())
