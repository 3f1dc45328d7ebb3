"""A settling process killed at any moment, its two batches under way: the next one goes on, nothing lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import time

import psycopg
import pytest

from engine.exchange.state import Registry
from engine.store import settlement_pipeline
from engine.store.settlement import Settler
from engine.store.settlement_pipeline import settle_all
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.closers import OK, in_child, wait_for
from tests.fixtures.settlement import SMALL_BATCH, Groups, numbers

MOST_KILLS = 8
"""Of one book; then a process is left in peace."""
BATCHES_UNDER_WAY = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
    " AND classid = (hashtext('ledger.settles')::bigint & 4294967295)::oid"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
HOLDING = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def count(owner: psycopg.Connection, query: str) -> int:
    """The one number that a query gives."""
    (number,) = owner.execute(query.encode()).fetchone() or (0,)
    return int(number)


@pytest.mark.parametrize("books", [1, pytest.param(25, marks=pytest.mark.faults)])
def test_settling_process_killed_at_random_moments_is_followed_by_one_that_comes_to_the_same(
    make_book: MakeBook,
    demo_events: tuple[Groups, Registry],
    at_once: BookUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    books: int,
) -> None:
    monkeypatch.setattr(settlement_pipeline, "BATCH", SMALL_BATCH)
    (groups, registry), dice, kills, beside = demo_events, random.Random(books), 0, 0
    for _ in range(books):
        book = make_book(None)

        begins, began = os.pipe()

        def work(book: BookUnderTest = book, began: int = began) -> int:
            with book.app() as connection:
                os.write(began, b".")
                settle_all(connection, Settler(registry), groups)
            return OK

        with book.admin() as owner:
            ended, killed = -1, 0
            while ended != OK:
                # The process before was killed a moment ago: its servers may not know yet. Every second one is killed
                # as soon as two batches are under way, the others at any moment.
                pid = in_child(work)
                os.read(begins, 1)
                if killed < MOST_KILLS:
                    wanted = 2 + killed % 2
                    until = time.monotonic() + (1.0 if wanted == 2 else dice.uniform(0.0, 0.1))
                    while (under_way := count(owner, BATCHES_UNDER_WAY)) < wanted and time.monotonic() < until:
                        time.sleep(0.001)
                    os.kill(pid, signal.SIGKILL)
                ended = wait_for(pid)
                assert ended in (OK, -signal.SIGKILL)
                killed += ended != OK
                beside += ended != OK and under_way == 2
            kills += killed
            deadline = time.monotonic() + 10
            while count(owner, HOLDING):
                assert time.monotonic() < deadline, "the server of a killed process still holds its turn"
                time.sleep(0.1)
        os.close(begins)
        os.close(began)
        assert numbers(book, gaps=True) == numbers(at_once, gaps=True)
        assert book.state_digest() == at_once.state_digest()
    assert kills >= 3 * books
    assert beside > 0
