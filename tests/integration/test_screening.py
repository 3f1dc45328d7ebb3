"""Screening on real books: who is hit, what comes of it, and what is not looked at twice."""

from __future__ import annotations

import pytest

from engine.steps import screening_hits
from engine.steps.runner import run_step
from engine.store import screening
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.screening import plain_list, record_names, screening_policy, store_list

VLADIMIR = ("e-1", "name", "Владимир Vladimirovich Orlov")
LISTED = (
    ("e-1", "name", "ORLOV, Vladimir Sergeyevich"),
    ("e-1", "name", "Владимир Орлов"),
    ("e-2", "name", "Ali Hassan Al-Mansur"),
    ("e-3", "address", "0xAbCdEf0123456789aBcDeF0123456789AbCdEf01"),
    ("e-4", "address", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4"),
)


def until_screening(book: BookUnderTest, day: object) -> None:
    from engine.steps.plan import STEPS

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
    row = (
        screened.admin()
        .execute(
            "SELECT authority, reason FROM accounts.account_state_transitions"
            " WHERE user_id = 1 AND to_state = 'suspended'"
        )
        .fetchone()
    )
    assert row is not None
    assert row[0] == "screening"
    assert "version 2026-03-01" in row[1]
    assert "Orlov" not in row[1]
    facts = next(r for r in results if r.step == "screening_hits").metadata
    assert facts["new_hits"] == 5
    assert "rlov" not in str(facts)
