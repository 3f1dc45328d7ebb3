"""Reopening: a sealed date becomes version n+1 by two people, takes the later ones with it, and n stays as it was."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import date, timedelta

import psycopg
import pytest

from engine.errors import ComplineError
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import reopening
from engine.store.connect import connect, typed_errors
from tests.fixtures.books import BookUnderTest
from tests.integration.test_gate_paths import compline

WHY = {"reason": "the venue corrected its last price", "maker": "ada", "checker": "ben"}


def close_all(book: BookUnderTest) -> None:
    for day in book.days:
        assert book.close(day)[-1].step == "evidence_packs"


def reopen(book: BookUnderTest, day: date, **changes: str) -> list[reopening.Reopened]:
    with connect(book.opened.url, autocommit=True) as connection, typed_errors():
        return reopening.reopen(connection, day, **{**WHY, **changes})


def rows(book: BookUnderTest, query: str) -> list[tuple[object, ...]]:
    with book.admin() as connection:
        return connection.execute(query.encode()).fetchall()


def test_a_reopened_date_and_all_after_it_close_again_as_the_next_version(book: BookUnderTest) -> None:
    close_all(book)
    first, second = book.days
    sealed = rows(book, "SELECT * FROM close.seals ORDER BY close_date, version")
    balances = rows(book, "SELECT account, asset, balance FROM ledger.accounts ORDER BY 1, 2")
    assert [(r.close_date, r.was, r.version) for r in reopen(book, first)] == [
        (second, "sealed", 2),
        (first, "sealed", 2),
    ]
    with pytest.raises(ComplineError, match="cannot be"):
        book.close(second)
    close_all(book)
    after = rows(book, "SELECT * FROM close.seals ORDER BY close_date, version")
    assert [row for row in after if row in sealed] == sealed
    assert len(after) == len(sealed) + 2
    assert rows(book, "SELECT account, asset, balance FROM ledger.accounts ORDER BY 1, 2") == balances
    manifests = [
        json.loads(m)
        for (m,) in rows(book, "SELECT convert_from(entry, 'UTF8') FROM reserves.log_entries ORDER BY log_index")
    ]
    assert [(m["close_date"], m["version"], m["supersedes"]) for m in manifests] == [
        (str(first), 1, None),
        (str(second), 1, None),
        (str(first), 2, 0),
        (str(second), 2, 1),
    ]
    assert (
        rows(book, "SELECT * FROM close.version_differences((SELECT min(close_date) + 1 FROM close.days), 1, 2)") == []
    )
    for version in (1, 2):
        assert (
            book.opened.files.evidence_dir / book.opened.book.name / f"{first}-v{version}" / "manifest.json"
        ).exists()


def test_what_moved_between_two_versions_is_listed_by_account(book: BookUnderTest) -> None:
    first, _ = book.days
    with book.closing(first) as context:
        for step in STEPS[:3]:
            run_step(step, context)
    with book.admin() as connection:
        connection.execute("UPDATE market.mark_prices SET price = price * 2 WHERE asset = 'BTC'")
    assert book.close(first)[-1].step == "evidence_packs"
    code, said, talk = compline(
        book, "close", "reopen", str(first), "--reason", "BTC was marked twice", "--by", "ada", "--second", "ben"
    )
    assert (code, [row["version"] for row in said["reopened"]]) == (0, [2]), talk
    assert f"close backfill {first} {first}" in talk
    assert book.close(first)[-1].step == "evidence_packs"
    code, said, _ = compline(book, "close", "diff", str(first))
    assert code == 0
    moved = said["differences"]
    what = {("BTC", "mark"), ("BTC", "value"), ("BTC", "unrealized")}
    assert {(row["asset"], row["what"]) for row in moved} == what
    holders = rows(
        book, "SELECT DISTINCT account FROM exchange.engine_balances WHERE asset = 'BTC' AND account <> 'house:fees'"
    )
    assert {row["account"] for row in moved} == {account for (account,) in holders}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"checker": "ada"}, "two different people"),
        ({"maker": ""}, "two different people"),
        ({"reason": " "}, "reason"),
    ],
)
def test_reopening_needs_two_people_and_a_reason(
    sealed_book: BookUnderTest, changes: dict[str, str], says: str
) -> None:
    with pytest.raises(ComplineError, match=says):
        reopen(sealed_book, sealed_book.days[0], **changes)


def test_only_a_sealed_day_is_reopened(sealed_book: BookUnderTest) -> None:
    first, second = sealed_book.days
    for day in (first - timedelta(days=1), second + timedelta(days=1), second + timedelta(days=9)):
        with pytest.raises(ComplineError, match="cannot be reopened"):
            reopen(sealed_book, day)
    assert compline(sealed_book, "close", "reopen", "2026-02-30", "--reason", "x", "--by", "a", "--second", "b")[0] in (
        64,
        65,
    )
    code, said, _ = compline(
        sealed_book, "close", "reopen", str(first), "--reason", "x", "--by", "a", "--second", "b", "--dry-run"
    )
    assert (code, [row["was"] for row in said["reopened"]]) == (0, ["sealed", "sealed"])
    assert sealed_book.value("SELECT count(*) FROM close.reopenings") == 0


def test_the_application_neither_writes_nor_changes_reopenings(sealed_book: BookUnderTest) -> None:
    for statement in (
        f"INSERT INTO close.reopenings VALUES ('{sealed_book.days[0]}', 1, '{sealed_book.days[0]}', 'x', 'a', 'b')",
        "DELETE FROM close.reopenings",
        "UPDATE close.reopenings SET reason = 'y'",
    ):
        with sealed_book.app() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_a_later_day_that_was_only_reconciled_goes_back_to_its_cut_off(book: BookUnderTest) -> None:
    first, second = book.days
    book.close(first)
    with book.closing(second) as context:
        for step in STEPS:
            if step.name == "seals":
                break
            assert run_step(step, context).status == "succeeded"
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", second) == "reconciled"
    reopen(book, first)
    assert rows(
        book,
        "SELECT state, version, books_sha256 FROM close.days WHERE state <> 'open' AND NOT genesis ORDER BY close_date",
    ) == [
        ("reopened", 2, None),
        ("cutoff", 1, None),
    ]
    close_all(book)
    assert rows(book, "SELECT version FROM close.seals WHERE kind = 'day' ORDER BY close_date, version") == [
        (1,),
        (2,),
        (1,),
    ]


def test_a_reopened_day_takes_no_posting_of_the_engine_and_keeps_its_barrier(book: BookUnderTest) -> None:
    close_all(book)
    first, _ = book.days
    reopen(book, first)
    with book.closing(first) as context, connect(book.opened.url, autocommit=True) as connection:
        barrier, at = connection.execute(
            "SELECT barrier_seq, cutoff_at FROM close.days WHERE close_date = %s", (first,)
        ).fetchone() or (0, 0)
        with pytest.raises(psycopg.Error, match="was cut off at sequence"):
            connection.execute("SELECT close.cut_off_day(%s, %s, %s, %s)", (first, context.epoch, barrier - 1, at))
        with pytest.raises(psycopg.Error, match="reopened"):
            connection.execute(
                "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, engine_seq, effective_at,"
                " close_date, origin, actor, reason, row_hash) VALUES (900000, 'deposit', 'deposit', 'late', 1, now(),"
                " %s, 'engine', 'x', 'x', sha256('x'))",
                (first,),
            )


def test_a_seal_and_a_reopening_at_once_wait_for_each_other(book: BookUnderTest) -> None:
    """Neither order of locks ends in a circle; afterwards the dates close again, in order."""
    first, second = book.days
    book.close(first)
    failures: list[BaseException] = []

    def closes() -> None:
        try:
            book.close(second)
        except ComplineError:
            pass  # it found its predecessor reopened
        except BaseException as error:
            failures.append(error)

    closer = threading.Thread(target=closes)
    closer.start()
    for _ in range(6):
        with suppress(ComplineError):  # it is not sealed again yet
            reopen(book, first)
        with book.closing(first) as context:
            for step in STEPS:
                run_step(step, context)
    closer.join()
    assert failures == []
    close_all(book)
    assert rows(book, "SELECT state FROM close.days WHERE state <> 'open' ORDER BY close_date") == [("sealed",)] * 3
