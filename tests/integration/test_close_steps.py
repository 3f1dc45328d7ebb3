"""A day closed step by step: idempotent, digest for digest, and equal however it got there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from engine.canonical import sha256_jcs
from engine.errors import GateError, UsageError
from engine.steps import control_totals, cutoff
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from tests.fixtures.books import BookUnderTest, MakeBook


def test_every_step_of_a_sealed_day_is_unchanged_when_run_again(book: BookUnderTest) -> None:
    first = book.close(book.days[0])
    before = book.state_digest()
    again = book.close(book.days[0])
    assert [r.unchanged for r in first] == [False] * len(STEPS)
    assert [r.unchanged for r in again] == [True] * len(STEPS)
    assert book.state_digest() == before


def test_equal_seeds_give_equal_state_digests(make_book: MakeBook) -> None:
    one, two = make_book(), make_book()
    two.keys = one.keys
    digests = []
    for made in (one, two):
        for day in made.days:
            made.close(day)
        digests.append(made.state_digest())
    assert digests[0] == digests[1]


def test_books_hash_is_the_one_that_python_computes_from_the_tables(sealed_book: BookUnderTest) -> None:
    day = sealed_book.days[0]
    with sealed_book.admin() as connection:
        names = ("journals", "balances", "marks", "readings", "engine_balances")
        digests = connection.execute("SELECT * FROM close.books_digests(%s)", (day,)).fetchone()
        row = connection.execute(
            "SELECT barrier_seq, policy_sha256, version, books_sha256 FROM close.days WHERE close_date = %s", (day,)
        ).fetchone()
    assert digests is not None
    assert row is not None
    expected = sha256_jcs(
        {
            "v": "books/1",
            "close_date": str(day),
            "version": row[2],
            "barrier_seq": row[0],
            "policy_sha256": row[1],
            **dict(zip(names, digests, strict=True)),
        }
    )
    assert row[3] == expected


def test_fees_swept_twice_are_income_once(book: BookUnderTest) -> None:
    day = book.days[0]
    book.close(day)
    income = book.value("SELECT sum(balance) FROM ledger.accounts WHERE account = 'fee_income' AND asset = 'USDT'")
    charged = book.value(
        "SELECT sum(maker_fee + taker_fee) FROM exchange.trades t JOIN exchange.markets m USING (market)"
        " WHERE close_date = %s AND m.quote = 'USDT'",
        day,
    )
    assert income == charged
    journals = book.value("SELECT count(*) FROM ledger.journals WHERE kind = 'fee_accrual'")
    book.close(day)
    assert book.value("SELECT count(*) FROM ledger.journals WHERE kind = 'fee_accrual'") == journals


def test_recapture_before_the_seal_gives_the_same_books_hash(book: BookUnderTest) -> None:
    day = book.days[0]
    with book.closing(day) as context:
        for step in STEPS[: STEPS.index(control_totals.STEP) + 1]:
            run_step(step, context)
    fixed = book.value("SELECT books_sha256 FROM close.days WHERE close_date = %s", day)
    results = book.close(day, recapture=True)
    assert [r.step for r in results if not r.unchanged][:2] == ["engine_balances", "mark_prices"]
    assert book.value("SELECT books_sha256 FROM close.days WHERE close_date = %s", day) == fixed
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", day) == "sealed"


def test_a_day_whose_predecessor_is_open_is_refused_by_name(book: BookUnderTest) -> None:
    with book.closing(book.days[1]) as context, pytest.raises(GateError, match=str(book.days[0])):
        run_step(cutoff.STEP, context)
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", book.days[1]) == "open"


def test_a_date_that_has_not_come_and_one_before_the_first_are_refused(book: BookUnderTest) -> None:
    with book.closing(book.days[0]) as context:
        early = context.policy.cutoff_rule.instant(book.days[0]) - timedelta(seconds=1)
    with book.closing(book.days[0], now=early) as context, pytest.raises(UsageError, match="has not come"):
        run_step(cutoff.STEP, context)
    before = book.days[0] - timedelta(days=2)
    with book.closing(before) as context, pytest.raises(UsageError, match="first day"):
        run_step(cutoff.STEP, context)
