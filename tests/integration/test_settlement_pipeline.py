"""Settlement over two connections: one batch is sent while the one before commits, in order, once, killed anywhere."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from engine.errors import ComplineError
from engine.exchange.events import Trade
from engine.exchange.state import Registry
from engine.store import postings, settlement_pipeline
from engine.store.connect import typed_errors
from engine.store.settlement import Settler
from engine.store.settlement_flight import Flight, OvertakenError, enter
from engine.store.settlement_pipeline import settle_all
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.settlement import SMALL_BATCH, Groups, flat, numbers


def test_connection_lost_while_a_consumer_enters_is_the_connections_error(
    at_once: BookUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_once.app(autocommit=False) as connection:
        execute = connection.execute

        def cut_after_the_second_turn(query: Any, params: Any = None) -> Any:
            done = execute(query, params)
            if params == (1,):
                with at_once.app() as other:
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
            return done

        monkeypatch.setattr(connection, "execute", cut_after_the_second_turn)
        with pytest.raises(psycopg.OperationalError):
            enter(connection)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement_pipeline, "BATCH", SMALL_BATCH)


def test_two_connections_come_to_what_one_transaction_does(
    make_book: MakeBook, demo_events: tuple[Groups, Registry], at_once: BookUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (groups, registry), book, used, seen = demo_events, make_book(None), set[int](), list[int]()
    land = Flight.land
    monkeypatch.setattr(Flight, "land", lambda flight: used.add(flight.connection.info.backend_pid) or land(flight))
    with book.app() as connection:
        done = settle_all(connection, Settler(registry), groups, seen.append)
        assert len(used) == 2
        assert connection.info.backend_pid in used
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert done.last_seq == seen[-1] == len(groups)
    assert done.trades == len([event for event in flat(groups) if isinstance(event, Trade)])
    assert numbers(book) == numbers(at_once)
    assert book.state_digest() == at_once.state_digest()
    assert book.value("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", list(used)) == 0


def test_killed_between_any_two_statements_of_either_transaction_nothing_is_lost_or_doubled(
    make_book: MakeBook, demo_events: tuple[Groups, Registry], at_once: BookUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One book, settled by attempts that each end after so many statements, on whichever connection that is."""
    (groups, registry), book = demo_events, make_book(None)
    left, lock = 0, threading.Lock()

    def broken(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            with lock:
                left -= 1
                if not left:
                    raise ConnectionAbortedError("killed")
            return real(*args, **kwargs)

        return call

    attempts = 0
    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", broken(psycopg.Connection.execute))
        patch.setattr(postings, "copied", broken(postings.copied))
        for attempts in range(1, 200):
            left = 0
            with book.app() as connection:
                left = attempts
                try:
                    settle_all(connection, Settler(registry), groups)
                except ConnectionAbortedError:
                    continue
                break
    assert attempts > 40
    assert numbers(book, gaps=True) == numbers(at_once, gaps=True)
    assert book.state_digest() == at_once.state_digest()


def test_servers_that_end_at_any_moment_lose_and_double_nothing(
    make_book: MakeBook, demo_events: tuple[Groups, Registry], at_once: BookUnderTest
) -> None:
    (groups, registry), book, dice = demo_events, make_book(None), random.Random(5)
    ended = 0
    for _ in range(60):
        with book.app() as connection, book.app() as other:
            wait = threading.Event()

            # A quick machine is done in a tenth of a second: the first ends come sooner than that.
            longest_s = 0.03 if ended < 3 else 0.25

            def end(
                other: psycopg.Connection = other, wait: threading.Event = wait, longest_s: float = longest_s
            ) -> None:
                if not wait.wait(dice.uniform(0.0, longest_s)):
                    other.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
                        " ORDER BY random()"
                    )

            thread = threading.Thread(target=end)
            thread.start()
            try:
                settle_all(connection, Settler(registry), groups)
            except (psycopg.OperationalError, ComplineError):
                ended += 1
                continue
            finally:
                wait.set()
                thread.join()
            break
    assert ended >= 3
    assert numbers(book, gaps=True) == numbers(at_once, gaps=True)
    assert book.state_digest() == at_once.state_digest()


def test_three_consumers_at_once_have_one_effect(
    make_book: MakeBook, demo_events: tuple[Groups, Registry], at_once: BookUnderTest
) -> None:
    (groups, registry), book = demo_events, make_book(None)
    start, failures, trades = threading.Barrier(3), list[BaseException](), list[int]()

    def run() -> None:
        with book.app() as connection:
            start.wait()
            try:
                trades.append(settle_all(connection, Settler(registry), groups).trades)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(trades) == len([event for event in flat(groups) if isinstance(event, Trade)])
    assert numbers(book, gaps=True) == numbers(at_once, gaps=True)
    assert book.state_digest() == at_once.state_digest()


def test_refused_batch_leaves_those_before_it_and_takes_none_after_it(
    make_book: MakeBook, demo_events: tuple[Groups, Registry], at_once: BookUnderTest
) -> None:
    (groups, registry), book, seen = demo_events, make_book(None), list[int]()
    at = next(n for n in range(len(groups) // 2, len(groups)) if any(isinstance(e, Trade) for e in groups[n]))
    poor = [e._replace(base_units=10**30) if isinstance(e, Trade) else e for e in groups[at]]
    with book.app() as connection:
        with pytest.raises(ComplineError, match="would be negative"), typed_errors():
            settle_all(connection, Settler(registry), [*groups[:at], poor, *groups[at + 1 :]], seen.append)
        assert seen[-1] < groups[at][0].engine_seq
        assert book.value("SELECT last_seq FROM ledger.settlement_cursor") == seen[-1]
        assert book.value("SELECT max(engine_seq) FROM ledger.journals") <= seen[-1]  # type: ignore[operator]
        settle_all(connection, Settler(registry), groups)
    assert numbers(book, gaps=True) == numbers(at_once, gaps=True)
    assert book.state_digest() == at_once.state_digest()


def test_error_of_whoever_watches_leaves_what_was_committed_and_no_open_transaction(
    make_book: MakeBook, demo_events: tuple[Groups, Registry]
) -> None:
    (groups, registry), book, seen = demo_events, make_book(None), list[int]()

    def watch(seq: int) -> None:
        seen.append(seq)
        if len(seen) == 3:
            raise ValueError("enough")

    with book.app() as connection:
        with pytest.raises(ValueError, match="enough"):
            settle_all(connection, Settler(registry), groups, watch)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert book.value("SELECT last_seq FROM ledger.settlement_cursor") == seen[2]
    assert not [one for one in threading.enumerate() if one.name.startswith("settlement-")]


def test_batch_sent_before_its_predecessor_committed_goes_with_it(
    make_book: MakeBook, demo_events: tuple[Groups, Registry]
) -> None:
    (groups, registry), book = demo_events, make_book(None)
    trades = [n for n, group in enumerate(groups) if any(isinstance(e, Trade) for e in group)]
    one, two = trades[-2:]
    settler = Settler(registry)
    with book.app() as first, book.app() as second:
        settler.settle(first, flat(groups[:one]))
        there = numbers(book)
        before = settler.send(first, settler.prepare(groups[one]))
        after = settler.send(second, settler.prepare(groups[two]), before)
        before.give_up()
        with pytest.raises(OvertakenError, match="does not stand at sequence"):
            after.land()
    assert numbers(book) == there


def test_posting_drawn_by_another_waits_for_settlement_and_comes_after_it(
    make_book: MakeBook, demo_events: tuple[Groups, Registry]
) -> None:
    (groups, registry), book = demo_events, make_book(None)
    settler = Settler(registry)
    with book.app() as first, book.app() as other:
        flight = settler.send(first, settler.prepare(flat(groups[:200])))
        with other.transaction(force_rollback=True):
            other.execute("SET LOCAL lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                postings.reserve(other, 1)
        with other.transaction():
            assert postings.reserve_in_turn(other, 5) > flight.done.journals
        done = flight.land()
        with other.transaction():
            assert postings.reserve(other, 1) == done.journals + 6


def test_blocks_drawn_at_once_do_not_overlap(make_book: MakeBook) -> None:
    book, drawn = make_book(None), list[int]()

    def draw() -> None:
        with book.app() as connection:
            for _ in range(50):
                drawn.append(postings.reserve_in_turn(connection, 7))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == list(range(1, 1400, 7))


@pytest.mark.parametrize("landed", [False, True])
def test_signal_while_a_batch_is_waited_for_lets_it_land_and_takes_back_the_one_after_it(
    make_book: MakeBook,
    demo_events: tuple[Groups, Registry],
    at_once: BookUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    landed: bool,
) -> None:
    (groups, registry), book, seen = demo_events, make_book(None), list[int]()
    wait, waits = Flight.wait, list[Flight]()

    def interrupted(flight: Flight) -> None:
        waits.append(flight)
        if len(seen) == 3 and waits.count(flight) == 1 and threading.current_thread() is threading.main_thread():
            if landed:
                wait(flight)
            raise KeyboardInterrupt
        wait(flight)

    with book.app() as connection:
        with monkeypatch.context() as patch:
            patch.setattr(Flight, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                settle_all(connection, Settler(registry), groups, seen.append)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert len(seen) == 4
        assert book.value("SELECT last_seq FROM ledger.settlement_cursor") == seen[-1]
        assert not [one for one in threading.enumerate() if one.name.startswith("settlement-")]
        settle_all(connection, Settler(registry), groups)
    assert numbers(book, gaps=True) == numbers(at_once, gaps=True)
    assert book.state_digest() == at_once.state_digest()


def test_later_batch_waits_in_the_guard_and_has_no_balance_locked_while_the_one_before_is_under_way(
    make_book: MakeBook, demo_events: tuple[Groups, Registry]
) -> None:
    (groups, registry), book = demo_events, make_book(None)
    one, two = [n for n, group in enumerate(groups) if any(isinstance(e, Trade) for e in group)][-2:]
    settler = Settler(registry)
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype = 'advisory' AND NOT granted"
        " AND classid = (hashtext('ledger.settles')::bigint & 4294967295)::oid"
    )
    with book.app() as first, book.app() as second, ThreadPoolExecutor(1) as thread:
        settler.settle(first, flat(groups[:one]))
        before = settler.send(first, settler.prepare(flat(groups[one:two])))
        after = settler.send(second, settler.prepare(groups[two]), before)
        landing = thread.submit(after.land)
        deadline = time.monotonic() + 10
        while not (waits := book.value(waiting, second.info.backend_pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        free = book.value("SELECT count(*) FROM (SELECT FROM ledger.accounts FOR UPDATE SKIP LOCKED) x")
        before.land()
        assert waits
        assert free == book.value("SELECT count(*) FROM ledger.accounts")
        assert landing.result().last_seq == two + 1
    assert book.value("SELECT last_seq FROM ledger.settlement_cursor") == two + 1
