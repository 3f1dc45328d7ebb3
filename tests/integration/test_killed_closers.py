"""A closer killed anywhere: its lease is free at once, and the next one ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from engine.errors import ComplineError
from engine.sim.demo import load_demo
from engine.steps.settling import settle
from engine.store.connect import connect
from engine.store.leases import CloseLease, LeaseHeldError
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book
from tests.fixtures.closers import (
    OK,
    close_in_child,
    effects,
    halt_in,
    hooked,
    in_child,
    kill_at,
    like,
    policy_with,
    same,
    stop_at,
    wait_for,
    with_readings,
)
from tests.fixtures.seals import NAMES


def test_lease_of_a_killed_closer_is_taken_at_once(clean: BookUnderTest, make_book: MakeBook) -> None:
    book = like(clean, make_book)
    day = book.days[0]
    pid = close_in_child(book, day, stop_at("close.replace_mark_prices"))
    wait_for(pid, stopped=True)
    with pytest.raises(LeaseHeldError), CloseLease(book.opened.url, day, "early", 30, wait_s=0):
        pass
    os.kill(pid, signal.SIGKILL)
    assert wait_for(pid) == -signal.SIGKILL
    # It was renewed at most a third of its time ago: who waited until that is up would have given up before.
    ttl_s = policy_with().lease_ttl_s
    assert CloseLease(book.opened.url, day, "next", ttl_s).wait_s < ttl_s / 2
    assert book.close(day)[-1].status == "succeeded"
    same(book, clean)


def statements_of(book: BookUnderTest, day: date, where: Path) -> int:
    """How many kill points a close of a day has."""

    def count(query: str) -> None:
        with where.open("a") as out:
            out.write(".")

    assert wait_for(close_in_child(book, day, lambda: hooked(count))) == OK
    return where.stat().st_size


def test_close_killed_in_the_middle_of_every_step_ends_as_if_nothing_had_happened(
    clean: BookUnderTest, make_book: MakeBook
) -> None:
    book, chance = like(clean, make_book), random.Random(7)
    for day in book.days:
        for step in NAMES:
            pid = close_in_child(book, day, halt_in(step, chance.randint(1, 12)), who=step)
            assert wait_for(pid) == -signal.SIGKILL, step
            done = book.value("SELECT count(*) FROM close.eod_runs WHERE close_date = %s AND step_name = %s", day, step)
            assert done == 0, f"{step} was killed before its commit"
        if day == book.days[0]:
            assert book.close(day)[-1].status == "succeeded"
    same(book, clean)
    assert all(effects(book, day) == (1, 2, 0, 1) for day in book.days)


def test_settlement_killed_anywhere_ends_as_if_nothing_had_happened(
    clean: BookUnderTest, make_book: MakeBook, tmp_path: Path
) -> None:
    book = make_book(None, policy_with())
    book.keys = clean.keys
    load_demo(book.opened.files.journal_dir, SMALL)
    with_readings(book)

    def work(point: int) -> Callable[[], int]:
        def run() -> int:
            kill_at(point)()
            with closing(connect(book.opened.url, autocommit=True)) as connection:
                settle(connection, book.opened.files.journal_dir)
            return OK

        return run

    killed = 0
    for point in (3, 5, 7, 9, 11, 13, 15, 17, 19, 21):
        killed += wait_for(in_child(work(point))) == -signal.SIGKILL
        if killed < 3:
            assert book.value("SELECT count(*) FROM ledger.journals") == 0
    assert killed >= 5
    with book.app() as connection:
        settle(connection, book.opened.files.journal_dir)
    same(book, clean)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_close_killed_at_every_statement_ends_as_if_nothing_had_happened(
    settings: Settings, servers: Servers, clean: BookUnderTest, tmp_path: Path
) -> None:
    def fresh(number: int) -> BookUnderTest:
        made = with_readings(new_book(settings, SMALL, policy_with(), name=f"kill{number}x"))
        made.keys = clean.keys
        return made

    probe = fresh(0)
    points = statements_of(probe, probe.days[0], tmp_path / "points")
    drop_book(probe)
    assert points > 100
    for point in range(1, points + 1):
        book = fresh(point)
        try:
            with contextlib.suppress(ComplineError):
                assert wait_for(close_in_child(book, book.days[0], kill_at(point))) == -signal.SIGKILL
            same(book, clean)
        finally:
            drop_book(book)
