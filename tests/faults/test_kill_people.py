"""What people decide, killed: reopening, correcting, closing, waiving and tolerating happen whole or not at all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from engine import clock
from engine.store import breaks, reopening, tolerances
from engine.store.connect import connect
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, drop_book, new_book
from tests.fixtures.breaks import ASSET, ghost_deposit
from tests.fixtures.closers import OK, hooked, in_child, wait_for

BACKENDS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
)
Act = Callable[[psycopg.Connection, BookUnderTest], object]


def _waive(connection: psycopg.Connection, book: BookUnderTest) -> object:
    until = clock.now() + timedelta(days=1)
    return breaks.waive(
        connection, "engine_vs_ledger", "book", book.days[0], ASSET, Decimal("0.5"), "looked at", "ada", "ben", until
    )


def _tolerate(connection: psycopg.Connection, book: BookUnderTest) -> object:
    until = clock.now() + timedelta(days=1)
    return tolerances.put(connection, "staking_vs_chain", ASSET, Decimal(1), 0, until, "dust", "ada", "ben")


ACTS: dict[str, Act] = {
    "assign": lambda c, b: breaks.assign(c, 1, "ada", "carl"),
    "waive": _waive,
    "tolerate": _tolerate,
    "correct": lambda c, b: breaks.correct(c, 1, "ledger", "carl", "dora", "settled twice", "custody:main"),
    "close a break": lambda c, b: breaks.close(c, 1, "emil", "dora", "done"),
    "reopen": lambda c, b: reopening.reopen(c, b.days[0], reason="a drill", maker="ada", checker="ben"),
}
"""In the order in which one book can take them; the date is closed before it is reopened."""


@pytest.fixture
def books(settings: Settings, template: None) -> Iterator[tuple[BookUnderTest, BookUnderTest]]:
    """Two equal books with half a bitcoin too much in the ledger: one that is killed, and one that is not."""
    made = [new_book(settings, SMALL, name=name) for name in ("killed", "spared")]
    made[1].keys = made[0].keys
    for book in made:
        ghost_deposit(book, book.days[0], at=datetime(2026, 3, 2, 12, tzinfo=UTC))
        assert book.close(book.days[0])[-1].status == "failed"
    yield made[0], made[1]
    for book in made:
        drop_book(book)


def act(book: BookUnderTest, work: Act) -> None:
    with closing(connect(book.opened.servers.admin.dsn())) as connection:
        work(connection, book)
        connection.commit()


def killed_in(book: BookUnderTest, work: Act, *, before: bool) -> None:
    """The same in a process of its own, killed before its statement is sent or before its commit."""

    def run() -> int:
        calls = 0

        def hook(query: str) -> None:
            nonlocal calls
            calls += query.startswith("SELECT")
            if calls == (1 if before else 2):
                os.kill(os.getpid(), signal.SIGKILL)

        hooked(hook)
        act(book, work)
        return OK

    assert wait_for(in_child(run)) == -signal.SIGKILL


def test_what_people_decide_happens_whole_or_not_at_all_when_killed(books: tuple[BookUnderTest, BookUnderTest]) -> None:
    killed, spared = books
    for name, work in ACTS.items():
        for book in books:
            if name == "reopen":
                assert book.close(book.days[0])[-1].status == "succeeded"
        before = killed.state_digest()
        for early in (True, False):
            killed_in(killed, work, before=early)
            assert killed.state_digest() == before, name
        for book in books:
            act(book, work)
        assert killed.state_digest() == spared.state_digest(), name
    for book in books:
        assert [book.close(day)[-1].status for day in book.days] == ["succeeded", "succeeded"]
    assert killed.state_digest() == spared.state_digest()


def test_a_reopening_that_waits_for_a_lock_is_gone_with_its_process(books: tuple[BookUnderTest, BookUnderTest]) -> None:
    book = books[0]
    act(book, ACTS["waive"])
    assert book.close(book.days[0])[-1].status == "succeeded"
    before = book.state_digest()
    with book.admin() as owner, owner.transaction():
        owner.execute("SELECT FROM close.days FOR UPDATE")
        pid = in_child(lambda: act(book, ACTS["reopen"]) or OK)
        waiting = f"{BACKENDS} AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + 10
        while book.value(waiting) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        wait_for(pid)
    deadline = time.monotonic() + 5
    while book.value(f"{BACKENDS} AND pid <> pg_backend_pid()"):
        assert time.monotonic() < deadline, "the backend of a killed process lives on"
        time.sleep(0.1)
    assert book.state_digest() == before
