"""Corrections where custody is compared too: the wrong reference is settled, and nothing stays in transit for ever."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from engine import clock
from engine.close.policy import CUSTODY_COVERS_LIABILITIES, ENGINE_VS_LEDGER, LEDGER_VS_CUSTODY
from engine.errors import ComplineError
from engine.store import breaks
from tests.fixtures.breaks import as_owner, ghost_deposit
from tests.fixtures.outside import WITH_CUSTODY, WithCustody

UNIT = 10**8


def waive(made: WithCustody, day: date, gate: str, cap: str) -> None:
    until = clock.now() + timedelta(days=1)
    as_owner(
        made.book,
        lambda c: breaks.waive(c, gate, "book", day, "BTC", Decimal(cap), "looked at", "ada", "ben", until),
    )


def correct(made: WithCustody, number: int, side: str, counter: str, reference: str | None = None) -> object:
    return as_owner(
        made.book, lambda c: breaks.correct(c, number, side, "carl", "dora", "found out", counter, reference)
    )


def in_transit(made: WithCustody, day: date) -> Any:
    return made.book.value("SELECT count(*) FROM custody.in_transit WHERE close_date = %s", day)


def test_a_deposit_that_only_the_ledger_had_is_corrected_with_its_reference_and_leaves_transit(
    custody_book: WithCustody,
) -> None:
    first, second = custody_book.book.days
    ghost_deposit(custody_book.book, first)
    assert custody_book.close(first).step == ENGINE_VS_LEDGER
    waive(custody_book, first, ENGINE_VS_LEDGER, "0.5")
    assert custody_book.close(first).step == LEDGER_VS_CUSTODY  # the same half bitcoin never came to custody
    with pytest.raises(ComplineError, match="needs the reference that it undoes"):
        correct(custody_book, 1, "ledger", "custody:main")
    correct(custody_book, 1, "ledger", "custody:main", "ghost")
    waive(custody_book, first, LEDGER_VS_CUSTODY, "0.5")
    assert custody_book.close(first).step == "evidence_packs"
    assert custody_book.close(second).step == "evidence_packs"
    assert in_transit(custody_book, first) == 1
    assert in_transit(custody_book, second) == 0


def test_coins_that_left_without_an_order_are_booked_to_an_account_with_an_owner_and_the_hole_shows_where_it_is(
    custody_book: WithCustody,
) -> None:
    book = custody_book.book
    first, second = book.days
    noon = WITH_CUSTODY.cutoff_rule.instant(first) - timedelta(hours=12)
    custody_book.wallet("BTC").send("to-nowhere", 5 * UNIT, 0, noon)
    assert custody_book.close(first).step == LEDGER_VS_CUSTODY
    for side, counter, says in (
        ("engine", "suspense", "the engine corrects what a user has"),
        ("ledger", "custody:cold", "its other leg is no wallet"),
        ("ledger", "u-0001", "needs a house account"),
        ("capture", "suspense", "recapture"),
    ):
        with pytest.raises(ComplineError, match=says):
            correct(custody_book, 1, side, counter)
    correct(custody_book, 1, "ledger", "suspense")
    waive(custody_book, first, LEDGER_VS_CUSTODY, "5")
    assert custody_book.close(first).step == "evidence_packs"
    stopped = custody_book.close(second)
    assert (stopped.step, stopped.status) == (CUSTODY_COVERS_LIABILITIES, "failed")
    assert in_transit(custody_book, second) == 0
    lost = "SELECT trim_scale(balance) FROM ledger.accounts WHERE account = 'suspense' AND asset = 'BTC'"
    assert book.value(lost) == -5
    short = "SELECT difference BETWEEN -5 AND -4.9 FROM recon.breaks WHERE gate = 'custody_covers_liabilities'"
    assert book.value(short) is True  # but for what fees the house has earned itself
    as_owner(book, lambda c: breaks.close(c, 1, "emil", "fay", "stolen; the insurer is told"))
    assert book.value("SELECT state FROM recon.breaks WHERE break_id = 1") == "closed"
