"""Engine against ledger at markers, over a real service with random traffic: no false break, and none missed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from nats.aio.client import Client

from engine import clock
from engine.exchange.conformance import EngineName
from engine.exchange.journal import JOURNAL_NAME, journal_path
from engine.exchange.replay import replay
from engine.store.connect import connect
from engine.store.markers import MarkerResult
from pipelines import watch
from tests.fixtures.exchange_service import USERS, Served, balances, new_service
from tests.fixtures.markers import asked, compline, journalled, results, traffic


@pytest.fixture(scope="module")
def marked(own_settings: Any) -> Iterator[Served]:
    service = new_service(own_settings)
    service.arguments = ("--compare-every", "1")
    service.start()
    yield service
    service.end()


def test_live_traffic_is_never_a_break_and_both_engines_replay_the_journal_with_its_markers(
    marked: Served, tmp_path: Path
) -> None:
    async def work(client: Client) -> list[MarkerResult]:
        stop = asyncio.Event()
        trading = [asyncio.create_task(traffic(client, stop, seed)) for seed in range(3)]
        found = [await asyncio.to_thread(asked, marked) for _ in range(6)]
        stop.set()
        assert sum([await task for task in trading]) > 50
        return found

    found = marked.run(work)
    balances(marked)
    marked.until(
        lambda: any(not one.reference for one in results(marked)), "the service's own clock has one journalled"
    )
    there = set(journalled(marked))
    marked.until(lambda: there <= {one.seq for one in results(marked)}, "every marker has its result")
    every = results(marked)
    assert {one.seq for one in every} <= set(journalled(marked))
    assert {one.verdict for one in every} == {"pass"}, every
    assert len(found) == 6
    assert min(one.engine_rows or 0 for one in every) >= 2 * USERS
    assert {one.engine_rows == one.ledger_rows for one in every} == {True}
    # The clock goes on to have markers journalled.
    shutil.copy(journal_path(marked.directory), tmp_path / JOURNAL_NAME)
    one, two = (replay(tmp_path, name).as_dict() for name in EngineName)
    assert {name for name in one if one[name] != two[name]} <= {"engine", "seconds", "commands_per_second"}
    assert "compline_exchange_marker_verdict 0" in marked.metrics()


def test_a_verdict_is_nobodys_to_forge(marked: Served) -> None:
    def refused(statement: str, *values: object) -> str:
        with closing(connect(marked.book.opened.url)) as connection, pytest.raises(psycopg.Error) as caught:
            connection.execute(statement.encode(), values)
        return str(caught.value)

    row = "(1, '2026-01-01', now(), '', 'pass', 1, 1, 0, 1, '{}')"
    assert "permission denied" in refused(f"INSERT INTO recon.markers VALUES {row}")
    assert "permission denied" in refused("DELETE FROM recon.marker_balances")
    assert "permission denied" in refused("INSERT INTO recon.marker_breaks VALUES (1, 1, 0, 1)")
    judge = "SELECT recon.judge_marker(%s, '2026-01-01', now(), '', 'x', 0)"
    assert "read committed" in refused(judge, 1)
    with closing(connect(marked.book.opened.url)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.Error, match="not where settlement is"):
            connection.execute(judge.encode(), (10**12,))
    with marked.book.admin() as owner, pytest.raises(psycopg.Error) as caught:
        owner.execute("UPDATE recon.markers SET verdict = 'pass'")
    assert caught.value.sqlstate == "CL003"


def test_an_exchange_that_is_not_compared_any_more_is_unknown_and_alerted(marked: Served) -> None:
    """Whatever is away: the watch needs none of it."""
    last = asked(marked)
    assert last.verdict == "pass"
    now = clock.now()
    for later, heard in ((timedelta(0), False), (timedelta(hours=1), True)):
        told = watch.look(marked.book.opened, [], now + later).raised
        assert any("have not been compared since" in title for title in told) is heard


def test_the_command_line_asks_for_a_marker_and_shows_what_came_of_it(marked: Served) -> None:
    code, shown = compline(marked, "recon", "now")
    assert (code, shown["verdict"], shown["breaks"]) == (0, "pass", 0)
    code, shown = compline(marked, "recon", "status")
    assert (code, shown["verdict"]) == (0, "pass")
    assert shown["markers"][0]["engine_rows"] >= 2 * USERS
    told = "SELECT count(*) FROM events.outbox WHERE subject = 'eod.recon.marker.completed' AND payload ->> 'book' = %s"
    assert marked.book.value(told, marked.name), "each result is an event of the outbox"
