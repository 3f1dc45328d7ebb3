"""Adjustments: two people, one payload, caps, one command, one journal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from engine.accounts.errors import NotYetError
from engine.canonical import sha256_jcs
from engine.clock import now
from engine.errors import ComplineError, ConflictError, GateError, InputError, LedgerRefusedError
from engine.exchange.postings import payer_of_adjustment
from engine.money import text_of
from engine.steps.requested import journal_requests
from engine.store import accounts, adjustments
from engine.store.adjustments import Adjustment
from engine.store.connect import typed_errors
from pipelines.settings import Settings
from tests.fixtures.adjustments import approve_adjustment, ask, set_cap
from tests.fixtures.books import SMALL, BookUnderTest, drop_book, new_book


def approve(book: BookUnderTest, asked: Adjustment, checker: str = "chen") -> Adjustment:
    with typed_errors(), book.app() as connection:
        return adjustments.approve(connection, asked.adjustment_id, asked.payload_sha256, checker)


def status(book: BookUnderTest, asked: Adjustment) -> str:
    with book.app() as connection:
        return adjustments.read(connection, asked.adjustment_id).status


def journal(book: BookUnderTest) -> None:
    with book.app() as connection:
        rule = book.opened.card.policy.cutoff_rule
        first = book.opened.book.first_day
        journal_requests(connection, book.opened.files.journal_dir, first_day=first, cutoff_rule=rule, now=now())


def balance(book: BookUnderTest, account: str) -> Decimal:
    found = book.value("SELECT balance FROM ledger.accounts WHERE account = %s AND asset = 'USDT'", account)
    return Decimal(str(found or 0))


@pytest.fixture(scope="module")
def shared(settings: Settings, servers: object, template: None) -> Iterator[BookUnderTest]:
    """A settled book that is never closed; each test asks under tickets and makers of its own, and sets its caps."""
    made = new_book(settings, SMALL, name="adj")
    yield made
    drop_book(made)


def test_approved_credit_and_debit_go_through_engine_and_ledger_and_the_days_seal(book: BookUnderTest) -> None:
    set_cap(book, "USDT")
    name = str(book.value("SELECT account FROM accounts.users WHERE user_id = 5"))
    before = balance(book, name)
    credit = approve(book, ask(book, "12.5", "T-1"))
    debit = approve(book, ask(book, "-0.25", "T-2", reason_code="recovery", reason="paid twice"))
    assert (credit.status, credit.reference) == ("approved", f"adj/goodwill/{credit.adjustment_id}")
    for day in book.days:
        assert book.close(day)[-1].step == "evidence_packs"
    assert (status(book, credit), status(book, debit)) == ("settled", "settled")
    assert balance(book, name) - before == Decimal("12.25")
    assert balance(book, "adjustment_expense") == Decimal("-12.25")
    with book.admin() as owner:
        rows = owner.execute(
            "SELECT reference_type, reference_id, actor, reason, origin FROM ledger.journals WHERE kind = 'adjust'"
            " ORDER BY posting_no"
        ).fetchall()
        told = owner.execute(
            "SELECT subject FROM events.outbox WHERE payload ->> 'adjustment' = %s ORDER BY event_id",
            (str(credit.adjustment_id),),
        ).fetchall()
    assert rows == [
        ("admin_adjustment", credit.reference, "mia, approved by chen", "promised", "engine"),
        ("admin_adjustment", debit.reference, "mia, approved by chen", "paid twice", "engine"),
    ]
    assert [row[0] for row in told] == [
        "account.adjustment.requested",
        "account.adjustment.approved",
        "account.adjustment.applied",
    ]
    assert book.value("SELECT count(*) FROM close.days WHERE state = 'sealed' AND NOT genesis") == 2


def test_debit_that_the_engine_cannot_take_shows_as_refused_and_moves_nothing(book: BookUnderTest) -> None:
    set_cap(book, "USDT")
    user, name, whole = (
        book.admin()
        .execute(
            "SELECT user_id, account, balance FROM ledger.accounts WHERE asset = 'USDT' AND user_id IS NOT NULL"
            " AND sub_account = 'main' ORDER BY balance DESC LIMIT 1"
        )
        .fetchone()
    )
    first = approve(book, ask(book, f"-{text_of(whole)}", "T-1", user=user, reason_code="recovery"))
    second = approve(book, ask(book, f"-{text_of(whole)}", "T-2", user=user, reason_code="recovery"))
    journal(book)
    assert sorted((status(book, first), status(book, second))) in (["refused", "settled"], ["refused", "refused"])
    assert balance(book, name) >= 0
    assert book.value("SELECT outcome FROM exchange.command_requests WHERE reference = %s", second.reference) == (
        "insufficient_funds"
    )
    told = "SELECT count(*) FROM events.outbox WHERE subject = 'account.adjustment.refused'"
    assert book.value(told) in (1, 2)
    for day in book.days:
        assert book.close(day)[-1].step == "evidence_packs"


def test_without_a_cap_every_adjustment_of_the_asset_is_refused_by_name(shared: BookUnderTest) -> None:
    with pytest.raises(GateError, match="no cap is configured for BTC"), typed_errors(), shared.app() as connection:
        connection.execute("SELECT accounts.request_adjustment(5, 'BTC', 0.01, 'goodwill', 'r', 'no-cap', 'mia')")
    assert shared.value("SELECT count(*) FROM accounts.adjustment_revisions WHERE ticket = 'no-cap'") == 0


def test_unit_error_is_refused_by_the_amount_and_by_the_share_of_holdings(shared: BookUnderTest) -> None:
    """620,000 of a coin by a unit error; and 620 where customers hold 1,000."""
    book = shared
    held = Decimal(str(book.value(HELD)))
    set_cap(book, "USDT", "619999.999999")
    with pytest.raises(GateError, match=r"620000 USDT is beyond the cap of 619999\.999999 USDT on one adjustment"):
        ask(book, "620000")
    set_cap(book, "USDT", 10**12, share_ppm=10_000)
    share = held * 62 / 100
    with pytest.raises(GateError, match="beyond the cap of 10000 ppm of all customers' holdings"):
        ask(book, text_of(share.quantize(Decimal("0.000001"))))
    exact = (held / 100).quantize(Decimal("0.000001"), rounding="ROUND_DOWN")
    assert ask(book, text_of(exact), "U-1").status == "requested"
    with pytest.raises(GateError, match="ppm"):
        ask(book, text_of(exact + Decimal("0.000001")), "U-2")
    with pytest.raises(GateError, match="ppm"):
        ask(book, f"-{text_of(share.quantize(Decimal('0.000001')))}", "U-3")


HELD = "SELECT sum(balance) FROM ledger.accounts WHERE asset = 'USDT' AND liability_class = 'customer'"


def test_cap_of_a_maker_and_day_counts_what_was_approved_and_is_looked_at_again(shared: BookUnderTest) -> None:
    set_cap(shared, "USDT", 100)
    asked = [ask(shared, "60", "D-1", maker="dan"), ask(shared, "60", "D-2", maker="dan")]
    asked.append(ask(shared, "-40", "D-3", maker="dan", reason_code="recovery"))
    approve(shared, asked[0])
    with pytest.raises(GateError, match="beyond the cap of 100 USDT of one maker and day: dan has 60 today"):
        approve(shared, asked[1])
    approve(shared, asked[2])
    with pytest.raises(GateError, match="dan has 100 today"):
        ask(shared, "0.000001", "D-4", maker="dan")
    assert ask(shared, "0.000001", "D-4", maker="noa").status == "requested"


def test_of_two_approvals_that_do_not_fit_together_one_goes_through(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT", 100)
    asked = [ask(book, "60", f"F-{n}", maker="fay") for n in range(6)]
    outcomes = at_once([(approve, book, one, "chen") for one in asked])
    assert sorted(map(type, outcomes), key=str) == sorted([Adjustment, *[GateError] * 5], key=str)


def test_of_many_approvers_at_once_one_decides_and_the_others_get_a_conflict(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT")
    asked = ask(book, "5", "R-1")
    outcomes = at_once([(approve, book, asked, f"checker-{n}") for n in range(8)])
    assert sorted(map(type, outcomes), key=str) == sorted([Adjustment, *[ConflictError] * 7], key=str)
    reference = f"adj/goodwill/{asked.adjustment_id}"
    assert book.value("SELECT count(*) FROM exchange.command_requests WHERE reference = %s", reference) == 1


def at_once(calls: list[tuple[object, ...]]) -> list[object]:
    """Outcomes of calls made at once: what they gave, or the typed error."""
    outcomes: list[object] = []
    gate = threading.Barrier(len(calls))

    def run(call: tuple[object, ...]) -> None:
        gate.wait()
        try:
            outcomes.append(call[0](*call[1:]))  # type: ignore[operator]
        except ComplineError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_who_asked_does_not_approve_and_an_edit_voids_what_was_seen(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT")
    asked = ask(book, "5", "E-1")
    with pytest.raises(GateError, match="who asks does not approve"):
        approve(book, asked, "mia")
    for name in ("Mia", "mia ", "", "chén"):
        with pytest.raises(GateError, match="names no person"):
            approve(book, asked, name)
    with typed_errors(), book.app() as connection:
        edited = adjustments.revise(
            connection, asked.adjustment_id, amount=Decimal(500), reason_code=None, reason=None, maker="noa"
        )
    assert (edited.revision, edited.reason, edited.payload_sha256 != asked.payload_sha256) == (2, "promised", True)
    with pytest.raises(ConflictError, match="stands at revision 2"):
        approve(book, asked)
    for maker in ("mia", "noa"):
        with pytest.raises(GateError, match="who asks does not approve"):
            approve(book, edited, maker)
    assert approve(book, edited).status == "approved"
    with pytest.raises(ConflictError, match="approved by chen"):
        approve(book, edited, "bob")
    with pytest.raises(ConflictError), typed_errors(), book.app() as connection:
        adjustments.revise(connection, asked.adjustment_id, amount=Decimal(1), reason_code=None, reason=None, maker="a")


def test_rejected_or_taken_back_adjustment_is_decided(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT")
    one, other = ask(book, "5", "J-1"), ask(book, "6", "J-2")
    with typed_errors(), book.app() as connection:
        assert adjustments.reject(connection, one.adjustment_id, one.payload_sha256, "chen", "no").status == "rejected"
        with pytest.raises(LedgerRefusedError), typed_errors():
            adjustments.reject(connection, other.adjustment_id, other.payload_sha256, "chen", "")
        adjustments.reject(connection, other.adjustment_id, other.payload_sha256, "mia", "mistaken")
    with pytest.raises(ConflictError, match="rejected by chen"):
        approve(book, one, "bob")
    reference = f"adj/goodwill/{one.adjustment_id}"
    assert book.value("SELECT count(*) FROM exchange.command_requests WHERE reference = %s", reference) == 0


def test_ticket_asks_once_and_never_for_something_else(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT")
    asked = ask(book, "5", "K-1")
    assert ask(book, "5", "K-1") == asked
    for amount, changes in (("6", {}), ("5", {"reason": "else"}), ("5", {"maker": "noa"})):
        with pytest.raises(ConflictError, match="another payload"):
            ask(book, amount, "K-1", **changes)


@pytest.mark.parametrize(
    ("amount", "changes"),
    [
        ("0", {}),
        ("NaN", {}),
        ("Infinity", {}),
        ("0.0000001", {}),
        ("1", {"reason_code": "gift"}),
        ("1", {"reason": " "}),
        ("1", {"reason": "a\nb"}),
        ("1", {"ticket": "a b"}),
        ("1", {"user": 10**6}),
    ],
)
def test_adjustment_that_is_badly_written_is_refused(
    shared: BookUnderTest, amount: str, changes: dict[str, object]
) -> None:
    set_cap(shared, "USDT")
    said: dict[str, object] = {"user": 5, "reason_code": "goodwill", "reason": "r", "ticket": "bad", **changes}
    with pytest.raises((InputError, LedgerRefusedError)), typed_errors(), shared.app() as connection:
        adjustments.request(
            connection,
            said["user"],  # type: ignore[arg-type]
            "USDT",
            Decimal(amount),
            reason_code=str(said["reason_code"]),
            reason=str(said["reason"]),
            ticket=str(said["ticket"]),
            maker="mia",
        )
    assert shared.value("SELECT count(*) FROM accounts.adjustment_revisions WHERE ticket = 'bad'") == 0


def test_debit_beyond_the_account_and_credit_beyond_a_fund_are_refused(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT")
    name = str(book.value("SELECT account FROM accounts.users WHERE user_id = 5"))
    with pytest.raises(LedgerRefusedError, match="takes more than the account's"):
        ask(book, f"-{text_of(balance(book, name) + Decimal('0.01'))}", reason_code="recovery")
    for code, fund in (("insurance", "insurance_fund"), ("unallocated_deposit", "deposits_unallocated")):
        with pytest.raises(LedgerRefusedError, match=f"takes more than the 0 USDT that {fund} has"):
            ask(book, "1", reason_code=code)


def test_account_that_receives_nothing_is_credited_nothing_and_may_be_debited(shared: BookUnderTest) -> None:
    set_cap(shared, "USDT")
    asked = ask(shared, "1", "T-ban", user=9)
    with shared.app() as app:
        accounts.transition(app, 9, "banned", authority="legal", actor="ann", second="bea", reason="court order")
        number, _ = accounts.onboard(app, "adj-pending")
    with pytest.raises(LedgerRefusedError, match="user 9 is banned and receives nothing"):
        approve(shared, asked)
    for user, state in ((9, "banned"), (number, "pending_kyc")):
        with pytest.raises(LedgerRefusedError, match=f"user {user} is {state} and receives nothing"):
            ask(shared, "1", f"T-{state}", user=user)
    assert ask(shared, "-1", "T-back", user=9, reason_code="recovery").status == "requested"


def test_account_does_not_end_while_coins_are_on_their_way(shared: BookUnderTest) -> None:
    set_cap(shared, "USDT")
    end = {"authority": "operator", "actor": "ann", "reason": "never used"}
    with shared.app() as app:
        number, _ = accounts.onboard(app, "adj-ends")
        accounts.transition(app, number, "kyc_approved", authority="kyc_provider", actor="sumsub")
        reference = approve_adjustment(shared, number, "USDT", "1", "T-way")
        with pytest.raises(NotYetError, match=f"adjust {reference} awaits the engine"), typed_errors():
            accounts.transition(app, number, "closed", **end)
        journal(shared)
        with pytest.raises(NotYetError, match="1 USDT in adj-ends"), typed_errors():
            accounts.transition(app, number, "closed", **end)


def test_reason_and_engine_agree_on_who_pays(sealed_book: BookUnderTest) -> None:
    with sealed_book.admin() as owner:
        rows = owner.execute("SELECT reason_code, counter_account FROM accounts.adjustment_reasons").fetchall()
    assert len(rows) >= 6
    for code, account in rows:
        assert payer_of_adjustment(f"adj/{code}/1") == account
    assert payer_of_adjustment("what-else") == "adjustment_expense"


def test_payload_hash_is_of_canonical_json(sealed_book: BookUnderTest) -> None:
    plain = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=40)
    with sealed_book.app() as connection:

        @examples(max_examples=60, deadline=None)
        @given(plain, plain, st.decimals(-(10**12), 10**12, places=6).filter(bool))
        def same(reason: str, ticket: str, amount: Decimal) -> None:
            row = connection.execute(
                "SELECT accounts.adjustment_sha256(7, 2, 5, 'USDT', %s, 'goodwill', %s, %s, 'mia')",
                (amount, reason, ticket),
            ).fetchone()
            payload = {
                "v": "adjustment/1",
                "adjustment": 7,
                "revision": 2,
                "user": 5,
                "asset": "USDT",
                "amount": text_of(amount),
                "reason_code": "goodwill",
                "reason": reason,
                "ticket": ticket,
                "maker": "mia",
            }
            assert row == (sha256_jcs(payload),)

        same()
