"""Deposits and the lifecycle: the first one makes an account active; what cannot be credited is kept and listed."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.clock import CutOffRule
from engine.exchange import commands as cmd
from engine.exchange.sequencer import open_exchange
from engine.steps.settling import settle
from engine.store import accounts
from engine.store.connect import connect
from tests.fixtures.books import BookUnderTest, MakeBook

RULE = CutOffRule.parse("24:00 UTC")
S = cmd.AccountState


def submit(book: BookUnderTest, *commands: cmd.Command) -> None:
    """Journal commands and settle them."""
    with open_exchange(
        book.opened.files.journal_dir, first_day=book.opened.book.first_day, cutoff_rule=RULE
    ) as sequencer:
        for command in commands:
            sequencer.submit(command, sequencer.engine.last_ts_us)
    with connect(book.opened.url, autocommit=True) as connection:
        settle(connection, book.opened.files.journal_dir)


@pytest.mark.parametrize("state", [S.PENDING_KYC, S.KYC_REJECTED, S.CLOSED, S.BANNED])
def test_coins_for_an_account_that_receives_nothing_are_kept_by_the_house_and_listed(
    make_book: MakeBook, state: cmd.AccountState
) -> None:
    book = make_book()
    before = book.value("SELECT sum(balance) FROM ledger.accounts WHERE user_id = 1")
    late = cmd.Deposit(1, 1, 5_000_000, "tx-late")
    submit(book, cmd.SetAccount(1, state, False, False, cmd.Hold.NONE, "off"), late, late)
    with book.app() as app:
        listed = accounts.unallocated(app)
    assert [(row["reference"], row["account"], row["asset"], row["amount"]) for row in listed] == [
        ("tx-late", "u-0001", "USDT", "5")
    ]
    assert book.value("SELECT balance FROM ledger.accounts WHERE account = 'deposits_unallocated'") == Decimal(5)
    assert book.value("SELECT sum(balance) FROM ledger.accounts WHERE user_id = 1") == before


@pytest.mark.parametrize("state", [S.KYC_APPROVED, S.ACTIVE, S.SUSPENDED, S.RESTRICTED])
def test_coins_for_any_other_account_are_credited(make_book: MakeBook, state: cmd.AccountState) -> None:
    book = make_book()
    query = "SELECT balance FROM ledger.accounts WHERE account = 'u-0001' AND asset = 'USDT'"
    before = book.value(query)
    submit(
        book,
        cmd.SetAccount(1, state, False, False, cmd.Hold.LEGAL, "off"),
        cmd.Deposit(1, 1, 5_000_000, "tx-late"),
    )
    assert book.value(query) == before + 5  # type: ignore[operator]
    assert book.value("SELECT count(*) FROM accounts.unallocated_deposits") == 0


def test_first_deposit_makes_an_approved_account_active_and_the_next_changes_nothing(make_book: MakeBook) -> None:
    book = make_book()
    with book.app() as app:
        number, made = accounts.onboard(app, "newcomer")
        assert made
        accounts.transition(app, number, "kyc_approved", authority="kyc_provider", actor="sumsub")
    submit(
        book,
        cmd.OpenAccount(number, "newcomer"),
        cmd.SetAccount(number, S.KYC_APPROVED, False, False, cmd.Hold.NONE, "approved"),
    )
    state = f"SELECT state || ' ' || version FROM accounts.users WHERE user_id = {number}"
    assert book.value(state) == "kyc_approved 2"
    submit(book, cmd.Deposit(number, 1, 7_000_000, "tx-1"))
    assert book.value(state) == "active 3"
    submit(book, cmd.Deposit(number, 1, 7_000_000, "tx-2"))
    assert book.value(state) == "active 3"
    assert book.value("SELECT authority || ' ' || actor FROM accounts.account_state_transitions WHERE version = 3") == (
        "first_deposit settlement"
    )
