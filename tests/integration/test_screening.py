"""Screening on real books: who is hit, what comes of it, and what is not looked at twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from engine.clock import now
from engine.errors import GateError, UncheckedError
from engine.steps import screening_hits
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.steps.screening import screen_user
from engine.store import screening
from engine.store.connect import typed_errors
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.command_line import call
from tests.fixtures.screening import plain_list, record_names, screening_policy, store_list

LISTED = (
    ("e-1", "name", "ORLOV, Vladimir Sergeyevich"),
    ("e-1", "name", "Владимир Орлов"),
    ("e-2", "name", "Ali Hassan Al-Mansur"),
    ("e-3", "address", "0xAbCdEf0123456789aBcDeF0123456789AbCdEf01"),
    ("e-4", "address", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4"),
)


def until_screening(book: BookUnderTest, day: object) -> None:
    with book.closing(day) as context:  # type: ignore[arg-type]
        for step in STEPS:
            if step is screening_hits.STEP:
                return
            run_step(step, context)


def screen(book: BookUnderTest, day: object) -> object:
    with book.closing(day) as context:  # type: ignore[arg-type]
        return run_step(screening_hits.STEP, context)


def hits(book: BookUnderTest) -> list[tuple[object, ...]]:
    with book.admin() as owner:
        return owner.execute(
            "SELECT user_id, entry, matched, hold_id IS NOT NULL FROM accounts.screening_hits ORDER BY 1, 2"
        ).fetchall()


def state(book: BookUnderTest, user: int) -> object:
    return book.value("SELECT state FROM accounts.users WHERE user_id = %s", user)


@pytest.fixture
def screened(make_book: MakeBook) -> BookUnderTest:
    book = make_book(policy=screening_policy())
    store_list(book, plain_list("2026-03-01", LISTED))
    return book


def test_close_suspends_who_is_on_the_list_by_name_or_address_and_seals(screened: BookUnderTest) -> None:
    record_names(
        screened,
        [(1, "Vladimir Orlov"), (2, "Vladimír ORLOV"), (3, "Anna Schmidt"), (4, "al mansour, Ali Hassan")],
    )
    with screened.app() as connection:
        screening.record_address(connection, 5, "ethereum", "0xabcdef0123456789abcdef0123456789abcdef01", "test")
        screening.record_address(connection, 6, "bitcoin", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "test")
        screening.record_address(connection, 7, "bitcoin", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "test")
    results = screened.close(screened.days[0])
    assert results[-1].step == "evidence_packs"
    assert hits(screened) == [
        (1, "e-1", "name", False),
        (2, "e-1", "name", False),
        (4, "e-2", "name", False),
        (5, "e-3", "address", False),
        (6, "e-4", "address", False),
    ]
    assert [state(screened, user) for user in (1, 3, 4, 7)] == ["suspended", "active", "suspended", "active"]
    with screened.admin() as owner:
        row = owner.execute(
            "SELECT authority, reason FROM accounts.account_state_transitions"
            " WHERE user_id = 1 AND to_state = 'suspended'"
        ).fetchone()
    assert row is not None
    assert row[0] == "screening"
    assert "version 2026-03-01" in row[1]
    assert "Orlov" not in row[1]
    facts = next(r for r in results if r.step == "screening_hits").metadata
    assert facts["new_hits"] == 5
    assert "rlov" not in str(facts)


def test_second_run_compares_who_is_new_and_what_is_new_on_the_list_and_nobody_else(screened: BookUnderTest) -> None:
    record_names(screened, [(1, "Vladimir Orlov"), (3, "Anna Schmidt"), (4, "Jane Doe")])
    first, second = screened.days
    until_screening(screened, first)
    screen(screened, first)
    record_names(screened, [(5, "Ali Hassan al-Mansur")])
    screen(screened, first)
    names = "SELECT names FROM accounts.screening_runs ORDER BY run_id DESC LIMIT 1"
    assert screened.value(names) == 1
    assert [hit[0] for hit in hits(screened)] == [1, 5]
    store_list(screened, plain_list("2026-03-02", [*LISTED, ("e-9", "name", "Anna Maria Schmidt")]), at=at(screened, 1))
    close(screened, first)
    until_screening(screened, second)
    screen(screened, second)
    assert screened.value(names) == 4
    assert [hit[:2] for hit in hits(screened)] == [(1, "e-1"), (3, "e-9"), (5, "e-2")]
    assert screened.value("SELECT count(*) FROM accounts.screening_runs") == 3
    screen(screened, second)
    assert screened.value("SELECT count(*) FROM accounts.screening_runs") == 3
    with screened.closing(second) as context:
        assert run_step(screening_hits.STEP, context).unchanged


def test_name_that_committed_late_is_screened_by_the_next_run(screened: BookUnderTest) -> None:
    until_screening(screened, screened.days[0])
    with screened.app(autocommit=False) as slow:
        screening.record_identity(slow, 1, "Vladimir Orlov", "test")
        record_names(screened, [(2, "Jane Doe")])
        screen(screened, screened.days[0])
        slow.commit()
    record_names(screened, [(3, "John Doe")])
    screen(screened, screened.days[0])
    assert [hit[0] for hit in hits(screened)] == [1]


@pytest.mark.parametrize("action", ["suspend", "restrict"])
def test_where_the_matrix_has_no_way_a_hit_opens_a_hold(make_book: MakeBook, action: str) -> None:
    book = make_book(policy=screening_policy(screening_action=action))
    store_list(book, plain_list("v", LISTED))
    with book.app() as connection:
        new = connection.execute("SELECT user_id FROM accounts.onboard('newcomer')").fetchone()
        assert new is not None
        connection.execute("SELECT accounts.transition(2, 'suspended', 'operator', 'olga', 'asked')")
    record_names(book, [(1, "Vladimir Orlov"), (2, "Vladimir Orlov"), (new[0], "Vladimir Orlov")])
    until_screening(book, book.days[0])
    screen(book, book.days[0])
    assert hits(book) == [(1, "e-1", "name", False), (2, "e-1", "name", True), (new[0], "e-1", "name", True)]
    assert state(book, 1) == {"suspend": "suspended", "restrict": "restricted"}[action]
    assert (state(book, 2), state(book, new[0])) == ("suspended", "pending_kyc")
    assert book.value("SELECT accounts.may_withdraw(%s)", new[0]) is False


def test_list_that_cannot_be_used_makes_the_day_unknown_and_never_without_hits(make_book: MakeBook) -> None:
    book = make_book(policy=screening_policy(screening_lists=("house:plain", "other:plain")))
    store_list(book, plain_list("v", LISTED))
    record_names(book, [(1, "Vladimir Orlov")])
    until_screening(book, book.days[0])
    status = "SELECT status FROM close.eod_runs WHERE step_name = 'screening_hits'"
    # Missing, stale, empty, not text, of another format: each stored nearer to the cut-off than the one before.
    for hours, raw in ((0, b""), (60, b""), (5, b"compline-list/1\tempty\n"), (4, b"\xff\xfe"), (3, b"<sdnList>")):
        if hours:
            store_list(book, raw, at=at(book, 0) + timedelta(hours=1 - hours), name="other")
        with pytest.raises(UncheckedError, match="list other"):
            screen(book, book.days[0])
        assert book.value(status) == "unknown"
        assert state(book, 1) == "suspended", "the list that is there acts all the same"
    store_list(book, plain_list("good", LISTED), at=at(book, 0) + timedelta(minutes=30), name="other")
    screen(book, book.days[0])
    assert book.value(status) == "succeeded"


def test_hit_cleared_by_two_people_does_not_come_back_until_the_entry_changes(screened: BookUnderTest) -> None:
    with screened.app() as connection, typed_errors():
        connection.execute("SELECT accounts.onboard('newcomer', 900)")
        screening.record_identity(connection, 900, "Vladimir Orlov", "test")
        store_list(screened, plain_list("now", LISTED), at=now())
        policy = screened.opened.policy_on(screened.days[0])
        (done,) = screen_user(connection, policy, 900, now())
        assert [(hit.user_id, hit.entry_id, hit.came_of_it[:4]) for hit in done.hits] == [(900, "e-1", "hold")]
        for who, second in (("ann", "ann"), ("Ann", "bob"), ("ann", "")):
            with pytest.raises(GateError), typed_errors():
                screening.clear(connection, 900, "house", "e-1", who=who, second=second, reason="born 1990")
        said = screening.clear(connection, 900, "house", "e-1", who="ann", second="bob", reason="born 1990")
        assert said.endswith("released")
        assert screen_user(connection, policy, 900, now())[0].hits == ()
        changed = [*LISTED, ("e-1", "name", "Wladimir Orlow")]
        store_list(screened, plain_list("later", changed), at=now() + timedelta(seconds=1))
        assert len(screen_user(connection, policy, 900, now() + timedelta(seconds=2))[0].hits) == 1
    assert screened.value("SELECT count(*) FROM accounts.holds WHERE user_id = 900 AND released_at IS NULL") == 1


def test_from_the_command_line_the_day_does_not_seal_before_the_list_is_there(make_book: MakeBook) -> None:
    book = make_book(policy=screening_policy())
    record_names(book, [(1, "Vladimir Orlov")])

    def run() -> tuple[int, dict[str, Any]]:
        answer = call(book.opened.settings.home, "close", "run", str(book.days[0]), "--book", book.opened.book.name)
        return answer.code, answer.said

    code, said = run()
    assert (code, said["days"][0]["state"]) == (2, "reconciled")
    store_list(book, plain_list("2026-03-01", LISTED))
    code, said = run()
    assert (code, said["days"][0]["state"]) == (0, "sealed")
    assert state(book, 1) == "suspended"


def test_names_and_addresses_are_read_by_nobody_and_changed_by_nobody(screened: BookUnderTest) -> None:
    record_names(screened, [(1, "Vladimir Orlov")])
    with screened.app() as connection:
        for statement in (
            "SELECT * FROM accounts.identities",
            "SELECT * FROM accounts.addresses",
            "UPDATE accounts.identities SET full_name = 'x'",
            "DELETE FROM accounts.screening_hits",
            "INSERT INTO accounts.screening_clearances VALUES (1, 'house', 'e-1', 'x', 'a', 'b', 'c')",
            "INSERT INTO accounts.screening_runs DEFAULT VALUES",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    with screened.admin() as owner, pytest.raises(psycopg.DatabaseError, match="append-only"):
        owner.execute("DELETE FROM accounts.identities")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0xABCDEF0123456789abcdef0123456789abcdef01", "0xabcdef0123456789abcdef0123456789abcdef01", True),
        ("0XABCDEF0123456789abcdef0123456789abcdef01", "0xabcdef0123456789abcdef0123456789abcdef01", True),
        ("BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", True),
        ("bc1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", False),
        (
            "bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a",
            "QPM2QSZNHKS23Z7629MMS6S4CWEF74VCWVY22GDX6A",
            True,
        ),
        ("1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "1boatslrhtknngkdxeeobr76b53letpyt", False),
        (" TJRabPrwbZy45sbavfcjinPJC18kjpRTv8 ", "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8", True),
        ("TJRabPrwbZy45sbavfcjinPJC18kjpRTv8", "tjrabprwbzy45sbavfcjinpjc18kjprtv8", False),
    ],
)
def test_address_has_one_writing_where_its_format_says_so(
    sealed_book: BookUnderTest, one: str, other: str, same: bool
) -> None:
    row = "SELECT accounts.normal_address(%s) = accounts.normal_address(%s)"
    assert sealed_book.value(row, one, other) is same


def at(book: BookUnderTest, day: int) -> datetime:
    """An hour before the cut-off of a day."""
    return datetime.combine(book.days[day], datetime.min.time(), UTC) + timedelta(hours=23)


def close(book: BookUnderTest, day: object) -> None:
    assert book.close(day)[-1].step == "evidence_packs"  # type: ignore[arg-type]
