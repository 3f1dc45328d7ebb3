"""The lifecycle stage of a close: reviews that cleared, closures whose days are over, dust that was given up."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from engine import clock
from engine.accounts.errors import ForbiddenTransitionError
from engine.accounts.rule import AccountRule
from engine.close.policy import Policy
from engine.errors import ConfigError, GateError
from engine.steps import reactivations
from engine.steps.requested import journal_requests
from engine.steps.runner import run_step
from engine.store import account_kyc, accounts, adjustments
from engine.store.connect import typed_errors
from tests.fixtures.accounts import superuser
from tests.fixtures.adjustments import approve_adjustment, set_cap
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook


def test_close_reactivates_who_was_cleared_and_a_second_run_changes_nothing(make_book: MakeBook) -> None:
    book = make_book()
    with book.app() as app:
        for user in (1, 2):
            accounts.transition(app, user, "suspended", authority="operator", actor="ann", reason="new review")
        event = account_kyc.KycEvent("sumsub", "d-1", 1, "approved", clock.now(), "0" * 64, "webhook")
        account_kyc.take(app, event)
    day = book.days[0]
    with book.closing(day) as context, pytest.raises(GateError, match="not cut off"):
        run_step(reactivations.STEP, context)
    done = {result.step: result for result in book.close(day)}
    assert done["reactivations"].metadata["reactivated"] == 1
    assert done["evidence_packs"].status == "succeeded"
    with book.app() as app:
        assert [accounts.find(app, str(user)).state for user in (1, 2)] == ["active", "suspended"]
        assert accounts.find(app, "1").version == 3
    book.close(day)
    with book.app() as app:
        assert accounts.find(app, "1").version == 3
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'account.restored'") == 1


def test_policy_that_requires_a_review_opens_accounts_without_rights_and_tells_the_engine(make_book: MakeBook) -> None:
    book = make_book(None, Policy(reporting_currency="USDT", kyc_required=True))
    with book.app() as app:
        app.execute("SELECT close.open_day(%s)", (book.days[0],))
        with pytest.raises(psycopg.Error, match="cannot open as active"):
            app.execute("INSERT INTO accounts.users (user_id, account) VALUES (7, 'seven')")
        app.execute(
            "INSERT INTO accounts.users (user_id, account, state) VALUES (7, 'seven', accounts.opening_state())"
        )
        one = accounts.find(app, "seven")
        assert (one.state, one.may_trade, one.may_withdraw) == ("pending_kyc", False, False)
    assert book.value("SELECT payload ->> 'state' FROM exchange.command_requests") == "pending_kyc"


def test_account_that_the_engine_opens_awaits_its_review_where_the_policy_says_so(make_book: MakeBook) -> None:
    book = make_book(SMALL, Policy(reporting_currency="USDT", mark_max_age_s=86_400, kyc_required=True))
    assert book.value("SELECT string_agg(DISTINCT state, ' ') FROM accounts.users") == "pending_kyc"
    asked = "SELECT count(*) FROM exchange.command_requests WHERE payload ->> 'state' = 'pending_kyc'"
    assert book.value(asked) == book.value("SELECT count(*) FROM accounts.users")


def test_dust_given_up_by_consent_awaits_another_person_and_only_then_does_the_account_end(
    make_book: MakeBook,
) -> None:
    book = make_book(None, Policy(reporting_currency="USDT", dust_value="0.5", closure_days=0))
    with superuser(book) as root:
        root.execute("SET session_replication_role = replica")
        root.execute("INSERT INTO exchange.assets VALUES ('USDT', 1, 6)")
        root.execute("SET session_replication_role = origin")
        root.execute("INSERT INTO accounts.users (user_id, account) VALUES (7, 'seven'), (8, 'eight')")
        root.execute("SET session_replication_role = replica")
        root.execute(
            "INSERT INTO ledger.accounts (account, user_id, asset, liability_class, balance) VALUES"
            " ('seven', 7, 'USDT', 'customer', 0.5), ('eight', 8, 'USDT', 'customer', 1000000)"
        )
    with book.admin() as owner:
        owner.execute("SELECT accounts.set_adjustment_cap('USDT', 10, 1000000, 100, NULL, 'test', 'ann', 'bea')")
    with book.app() as app:
        with pytest.raises(psycopg.Error, match=r"still has 0\.5 USDT"):
            accounts.request_closure(app, 7, actor="the user", dust_consent=False)
        with pytest.raises(psycopg.Error, match="still has 1000000 USDT"):
            accounts.request_closure(app, 8, actor="the user", dust_consent=True)
        accounts.request_closure(app, 7, actor="the user", dust_consent=True)
        for _ in range(3):
            assert accounts.finish_closures(app, "close") == [(7, "dust in 1 assets awaits its approval")]
        row = app.execute(
            "SELECT adjustment_id, amount, reason_code, payload_sha256 FROM accounts.adjustments"
        ).fetchall()
        assert [(one[1], one[2]) for one in row] == [(Decimal("-0.5"), "dust")]
        app.execute("SELECT accounts.approve_adjustment(%s, %s, 'bea')", (row[0][0], row[0][3]))
        assert accounts.find(app, "7").state == "active", "not before the engine and the ledger moved"
        with superuser(book) as root:
            root.execute("SET session_replication_role = replica")
            root.execute("UPDATE ledger.accounts SET balance = 0 WHERE user_id = 7")
            root.execute(
                "UPDATE exchange.command_requests SET outcome = 'accepted', engine_seq = 1, answered_at = now()"
                " WHERE kind = 'adjust'"
            )
        assert accounts.finish_closures(app, "close") == [(7, "closed")]


def test_dust_leaves_by_the_engines_own_command_and_the_days_seal(make_book: MakeBook) -> None:
    book = make_book(SMALL, Policy(reporting_currency="USDT", mark_max_age_s=86_400, dust_value="0.5", closure_days=0))
    set_cap(book, "USDT")
    with book.app() as app:
        number, _ = accounts.onboard(app, "leaving")
        compliance = {"authority": "compliance", "actor": "ann", "second": "bea", "reason": "papers seen"}
        accounts.transition(app, number, "kyc_approved", **compliance)  # type: ignore[arg-type]
        accounts.transition(app, number, "active", authority="first_deposit", actor="test")
    given = approve_adjustment(book, number, "USDT", "0.4", "T-dust")
    journal(book)
    with book.app() as app:
        held = app.execute(
            "SELECT account, balance FROM ledger.accounts WHERE user_id = %s AND balance <> 0", (number,)
        )
        assert held.fetchall() == [("leaving", Decimal("0.4"))], given
        accounts.request_closure(app, number, actor="the user", dust_consent=True)
        assert accounts.finish_closures(app, "close") == [(number, "dust in 1 assets awaits its approval")]
        asked = app.execute(
            "SELECT adjustment_id, payload_sha256 FROM accounts.adjustments WHERE reason_code = 'dust'"
        ).fetchone()
        assert asked is not None
        adjustments.approve(app, asked[0], asked[1], "bea")
        assert accounts.finish_closures(app, "close")[0][1] != "closed", "not before the engine moved it"
        assert accounts.find(app, "leaving").state == "active"
    day = book.days[0]
    done = {result.step: result for result in book.close(day)}
    assert done["evidence_packs"].status == "succeeded"
    assert done["reactivations"].metadata["closed"] == 1
    with book.app() as app:
        assert accounts.find(app, "leaving").state == "closed"
        rows = app.execute(
            "SELECT a.account, e.amount FROM ledger.journals j"
            " JOIN ledger.ledger_entries e USING (posting_no, close_date)"
            " JOIN ledger.accounts a USING (account_id) WHERE j.reference_id = %s ORDER BY 1",
            (f"adj/dust/{asked[0]}",),
        ).fetchall()
        assert rows == [("insurance_fund", Decimal("0.4")), ("leaving", Decimal("-0.4"))]
        with pytest.raises(ForbiddenTransitionError), typed_errors():
            accounts.transition(app, number, "active", **compliance)  # type: ignore[arg-type]
    for later in book.days[1:]:
        assert book.close(later)[-1].status == "succeeded"


def journal(book: BookUnderTest) -> None:
    """Let the engine of a book that nobody serves take what it was asked for, and the ledger follow."""
    with book.app() as app:
        rule = book.opened.card.policy.cutoff_rule
        first = book.opened.book.first_day
        journal_requests(app, book.opened.files.journal_dir, first_day=first, cutoff_rule=rule, now=clock.now())


@pytest.mark.parametrize(
    "changes",
    [
        {"obligation_deadline_s": 0},
        {"closure_days": 366},
        {"holds_released_by_two": ("breaks",)},
        {"dust_value": "-1"},
        {"dust_value": "much"},
    ],
    ids=str,
)
def test_policy_that_accounts_cannot_follow_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="policy's"):
        Policy(reporting_currency="USDT", **changes)  # type: ignore[arg-type]
    assert AccountRule.of(60, (), 30, "0.5").dust_value == Decimal("0.5")
