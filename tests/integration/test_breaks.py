"""The life of a break: found, owned, explained or corrected by two people, closed by another; waived, never turned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal

import psycopg
import pytest

from engine import clock
from engine.errors import ComplineError
from engine.store import breaks
from tests.fixtures.books import BookUnderTest
from tests.fixtures.breaks import ASSET, as_app, as_owner, ghost_deposit, state, waive
from tests.integration.test_gate_paths import compline


def test_the_wrong_ledger_is_corrected_in_the_open_date_and_the_date_seals_with_the_break_listed(
    broken: BookUnderTest,
) -> None:
    first, second = broken.days
    assert broken.value("SELECT count(*) FROM accounts.holds WHERE kind = 'break' AND released_at IS NULL") == 1
    as_app(broken, lambda c: breaks.assign(c, 1, "ada", "carl"))
    as_app(broken, lambda c: breaks.comment(c, 1, "carl", "settled twice", "https://tickets.example/17"))
    assert state(broken) == "investigating"
    waive(broken, first)
    assert broken.close(first)[-1].step == "evidence_packs"
    assert (
        broken.value("SELECT verdict FROM recon.verdicts WHERE gate = 'engine_vs_ledger' AND close_date = %s", first)
        == "fail"
    )
    as_owner(
        broken,
        lambda c: breaks.correct(c, 1, "ledger", "carl", "dora", "the deposit was settled twice", "custody:main"),
    )
    assert state(broken) == "corrected"
    assert broken.value("SELECT close_date FROM ledger.journals WHERE origin = 'correction'") == second
    assert broken.close(second)[-1].step == "evidence_packs"
    with pytest.raises(ComplineError, match="who cannot be the second"):
        as_owner(broken, lambda c: breaks.close(c, 1, "emil", "carl", "done"))
    as_owner(broken, lambda c: breaks.close(c, 1, "emil", "dora", "done"))
    assert state(broken) == "closed"
    assert broken.value("SELECT count(*) FROM accounts.holds WHERE kind = 'break' AND released_at IS NULL") == 0
    with broken.app() as connection:
        assert [e["what"] for e in breaks.events(connection, 1)] == ["assigned", "comment", "corrected", "closed"]


def test_the_wrong_engine_is_corrected_by_a_command_that_no_journal_follows(broken: BookUnderTest) -> None:
    first, _ = broken.days
    journals = broken.value("SELECT count(*) FROM ledger.journals WHERE kind IN ('adjust', 'correction')")
    as_owner(broken, lambda c: breaks.correct(c, 1, "engine", "carl", "dora", "the engine lost it", None))
    assert state(broken) == "open"
    waive(broken, first)
    for day in broken.days:
        waive(broken, day)
        broken.close(day)
    assert broken.value("SELECT outcome FROM exchange.command_requests WHERE kind = 'correct_engine'") == "accepted"
    assert state(broken) == "corrected"
    assert broken.value("SELECT count(*) FROM ledger.journals WHERE kind IN ('adjust', 'correction')") == journals


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda c: breaks.correct(c, 1, "ledger", "ada", " ADA ", "x", "custody:main"), "two different people"),
        (lambda c: breaks.correct(c, 1, "ledger", "ada", "", "x", "custody:main"), "two different people"),
        (lambda c: breaks.correct(c, 1, "ledger", "ada", "ben", "x", "u-0002"), "needs a house account"),
        (lambda c: breaks.correct(c, 1, "ledger", "ada", "ben", "x", None), "needs a house account"),
        (lambda c: breaks.correct(c, 1, "capture", "ada", "ben", "x", None), "recapture"),
        (lambda c: breaks.correct(c, 99, "engine", "ada", "ben", "x", None), "not there"),
        (lambda c: breaks.close(c, 1, "ada", "ben", "x"), "not explained or corrected"),
        (lambda c: breaks.close(c, 1, "ada", "ada", "x"), "two different people"),
        (lambda c: breaks.explain(c, 1, "ada", "because", "x", None), "no reason because"),
        (lambda c: breaks.assign(c, 1, "ada", " "), "assigned to nobody"),
        (
            lambda c: breaks.waive(
                c, "engine_vs_ledger", "book", date(2026, 3, 2), "BTC", Decimal(1), "x", "a", "A",
                clock.now() + timedelta(days=1),
            ),
            "two different people",
        ),
        (
            lambda c: breaks.waive(
                c, "engine_vs_ledger", "book", date(2026, 3, 2), "BTC", Decimal(1), "x", "a", "b",
                clock.now() + timedelta(days=99),
            ),
            "within 31 days",
        ),
    ],
)  # fmt: skip
def test_what_a_person_may_not_do_with_a_break_is_refused(
    broken_once: BookUnderTest, work: Callable[[psycopg.Connection], object], says: str
) -> None:
    with pytest.raises(ComplineError, match=says):
        as_owner(broken_once, work)


@pytest.fixture(scope="module")
def broken_once(sealed_book: BookUnderTest, settings: object) -> object:
    """One broken book for all refusals, which change nothing."""
    from tests.fixtures.books import SMALL, drop_book, new_book

    made = new_book(settings, SMALL, name="broken")  # type: ignore[arg-type]
    ghost_deposit(made, made.days[0])
    made.close(made.days[0])
    yield made
    drop_book(made)


def test_the_amount_of_a_correction_is_its_breaks_own(broken_once: BookUnderTest) -> None:
    row = (
        "INSERT INTO recon.corrections (break_id, side, amount, counter, posting_no, maker, checker, reason)"
        " VALUES (1, 'ledger', %s, 'x', 9, 'a', 'b', 'c')"
    )
    with broken_once.admin() as connection:
        for amount in ("-0.50000001", "0.5", "-5"):
            with pytest.raises(psycopg.Error, match="own amount"):
                connection.execute(row, (amount,))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT recon.correct_break(1, 'ledger', 'a', 'b', 'c', 'custody:main')",
        "SELECT recon.close_break(1, 'a', 'b', 'c')",
        "SELECT recon.waive('engine_vs_ledger', 'book', '2026-03-02', 'BTC', 9, 'x', 'a', 'b', now() + interval '1 h')",
        "UPDATE recon.breaks SET state = 'closed', maker = 'a', checker = 'b'",
        "INSERT INTO recon.break_events (break_id, what, actor, text) VALUES (1, 'closed', 'a', 'b')",
        "DELETE FROM recon.break_events",
        "INSERT INTO recon.corrections VALUES (1, 'ledger', 1, 'x', 1, NULL, 'a', 'b', 'c')",
        "INSERT INTO recon.tolerances VALUES ('engine_vs_ledger', 'BTC', 1, 0, 'a', 'infinity')",
    ],
)
def test_the_application_corrects_closes_and_waives_nothing(broken_once: BookUnderTest, statement: str) -> None:
    with broken_once.app() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_a_journal_of_origin_correction_without_its_break_is_refused(broken_once: BookUnderTest) -> None:
    with broken_once.app() as connection, pytest.raises(psycopg.Error, match="takes no journal of origin correction"):
        connection.execute(
            "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date,"
            " origin, actor, reason, row_hash) SELECT 990001, 'correction', 'break', '1', now(), max(close_date),"
            " 'correction', 'a', 'b', sha256('x') FROM close.days"
        )


def test_of_two_who_close_a_break_at_once_one_does(broken: BookUnderTest) -> None:
    as_app(broken, lambda c: breaks.explain(c, 1, "carl", "duplicate_entry", "settled twice", None))
    said: list[str] = []

    def closes(who: str) -> None:
        try:
            as_owner(broken, lambda c: breaks.close(c, 1, who, "dora", "x"))
            said.append("done")
        except ComplineError as error:
            said.append(str(error))

    threads = [threading.Thread(target=closes, args=(who,)) for who in ("emil", "fay")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(s[:4] for s in said) == ["brea", "done"]


def test_seen_again_a_break_ages_and_is_not_written_twice(broken: BookUnderTest) -> None:
    first, second = broken.days
    waive(broken, first)
    broken.close(first)
    broken.close(second)
    with broken.app() as connection:
        found = breaks.all_breaks(connection, closed=True)
    assert [(b.first_date, b.last_date, b.age) for b in found] == [(first, second, "1-2 days")]


def test_on_the_command_line_a_break_is_shown_tried_and_waived(broken: BookUnderTest) -> None:
    code, said, _ = compline(
        broken, "recon", "breaks", "explain", "1", "--reason", "timing", "--text", "late", "--by", "ada", "--dry-run"
    )
    assert (code, said["state"]) == (0, "explained")
    code, said, _ = compline(broken, "recon", "breaks", "show", "1")
    assert (code, said["state"], said["difference"], said["events"]) == (0, "open", "-0.5", [])
    code, said, talk = compline(
        broken, "recon", "breaks", "waive", str(broken.days[0]), "--gate", "engine_vs_ledger", "--asset", ASSET,
        "--cap", "0.5", "--why", "looked at", "--by", "ada", "--second", "ben",
    )  # fmt: skip
    assert (code, said.get("waiver")) == (0, 1), talk
    assert broken.close(broken.days[0])[-1].step == "evidence_packs"


def test_where_no_exchange_is_served_comparing_now_says_so_and_asks_nothing(sealed_book: BookUnderTest) -> None:
    count = "SELECT count(*) FROM exchange.command_requests"
    before = sealed_book.value(count)
    code, said, _ = compline(sealed_book, "recon", "now", "--json")
    assert (code, "nobody serves the exchange" in str(said)) == (2, True)
    assert sealed_book.value(count) == before
