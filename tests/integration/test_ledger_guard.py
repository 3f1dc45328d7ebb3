"""What the database refuses of journals and legs, whoever asks: raw SQL and COPY as the application."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import psycopg
import pytest

from engine.clock import to_us
from engine.errors import LedgerRefusedError
from engine.ledger.journal import Journal, Leg
from engine.store import postings
from tests.fixtures.books import BookUnderTest
from tests.fixtures.legs import (
    OTHER,
    UNIT,
    USER,
    WALLET,
    LegRow,
    accounts,
    balance,
    open_day,
    put,
    put_journal,
    put_legs,
)
from tests.fixtures.seals import refused


def put_by_copy(connection: psycopg.Connection, day: date, legs: Sequence[LegRow]) -> None:
    posting, known = put_journal(connection, day), accounts(connection, legs)
    target = "ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)"
    postings.copy_rows(connection, target, [(posting, day, known[x[0], x[1]], x[1], x[2]) for x in legs])


@pytest.mark.parametrize("way", [put, put_by_copy])
def test_balanced_journal_is_taken_and_moves_the_balances_by_its_legs(
    guarded_app: psycopg.Connection, guarded: BookUnderTest, way: object
) -> None:
    before = balance(guarded_app, USER, "ETH")
    legs = [(USER, "ETH", f"1{UNIT[1:]}"), (WALLET, "ETH", f"-1{UNIT[1:]}")]
    way(guarded_app, open_day(guarded), legs)  # type: ignore[operator]
    assert balance(guarded_app, USER, "ETH") - before == Decimal(1) + Decimal(UNIT)


@pytest.mark.parametrize("way", [put, put_by_copy])
@pytest.mark.parametrize("off", ["1", UNIT, f"-{UNIT}", "1000000000000"])
def test_journal_off_in_one_asset_is_refused_down_to_one_unit_of_ten_to_minus_eighteen(
    guarded_app: psycopg.Connection, guarded: BookUnderTest, way: object, off: str
) -> None:
    legs = [(USER, "ETH", str(Decimal(2) + Decimal(off))), (WALLET, "ETH", "-2")]
    with refused("CL001", match=r"off by .* ETH"):
        way(guarded_app, open_day(guarded), legs)  # type: ignore[operator]


def test_two_assets_off_by_opposite_amounts_do_not_cancel_out(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    legs = [(USER, "ETH", "3"), (WALLET, "ETH", "-2"), (USER, "BTC", "1"), (WALLET, "BTC", "-2")]
    with refused("CL001"):
        put(guarded_app, open_day(guarded), legs)


def test_two_journals_of_one_statement_do_not_balance_each_other(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day = open_day(guarded)
    one, two = put_journal(guarded_app, day), put_journal(guarded_app, day)
    known = accounts(guarded_app, [(USER, "ETH", ""), (WALLET, "ETH", "")])
    target = "ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)"
    rows = [(one, day, known[USER, "ETH"], "ETH", "1"), (two, day, known[WALLET, "ETH"], "ETH", "-1")]
    with refused("CL001"):
        postings.copy_rows(guarded_app, target, rows)


def test_legs_of_one_journal_split_over_two_statements_are_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day = open_day(guarded)
    posting = put_journal(guarded_app, day)
    with refused("CL001"):
        put_legs(guarded_app, day, posting, [(USER, "ETH", "1")])


def test_legs_to_a_journal_of_an_earlier_transaction_are_refused(guarded: BookUnderTest) -> None:
    day = open_day(guarded)
    number = guarded.value("SELECT max(posting_no) FROM ledger.journals WHERE close_date = %s", guarded.days[0])
    with guarded.app() as connection, connection.transaction(force_rollback=True):
        posting = put_journal(connection, day)
        connection.execute("SAVEPOINT one")
        for earlier in (number, posting + 10**6):
            with refused("CL005", match="no journal"):
                put_legs(connection, day, int(str(earlier)), [(USER, "ETH", "1"), (WALLET, "ETH", "-1")])
            connection.execute("ROLLBACK TO one")


def test_legs_to_a_committed_journal_of_an_open_day_are_refused(book: BookUnderTest) -> None:
    number = book.value("SELECT max(posting_no) FROM ledger.journals WHERE close_date = %s", book.days[1])
    with book.app() as connection, refused("CL005", match="no journal of that date in this transaction"):
        put_legs(connection, book.days[1], int(str(number)), [(USER, "ETH", "1"), (WALLET, "ETH", "-1")])


def test_legs_under_another_date_than_their_journal_are_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    posting = put_journal(guarded_app, open_day(guarded))
    with refused("CL005"):
        put_legs(guarded_app, guarded.days[0], posting, [(USER, "ETH", "1"), (WALLET, "ETH", "-1")])


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"engine_seq": None}, "journals_engine_has_seq"),
        ({"epoch": 1}, "journals_close_has_epoch"),
        ({"kind": "fee_accrual"}, "journals_kind_fits_origin"),
        ({"kind": "opening_balance"}, "journals_kind_fits_origin"),
        ({"kind": "correction"}, "journals_kind_fits_origin"),
        ({"origin": "correction", "engine_seq": None}, "journals_kind_fits_origin"),
        ({"origin": "genesis"}, "journals_kind_fits_origin"),
        ({"origin": "close", "engine_seq": None, "epoch": 1}, "journals_kind_fits_origin"),
        ({"kind": "gift"}, "journals_kind_check"),
        ({"origin": "me", "kind": "correction", "engine_seq": None}, "journals_origin_check"),
        ({"reason": ""}, "journals_reason_check"),
        ({"actor": ""}, "journals_actor_check"),
        ({"row_hash": b"short"}, "journals_row_hash_check"),
        ({"reference_id": "two words"}, "journals_reference_id_check"),
    ],
)
def test_journal_that_breaks_a_rule_of_its_own_row_is_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest, changes: dict[str, object], constraint: str
) -> None:
    with refused("23514", match=constraint):
        put_journal(guarded_app, open_day(guarded), **changes)


def test_customer_balance_never_becomes_negative_not_even_by_one_unit(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day, held = open_day(guarded), balance(guarded_app, USER, "ETH")
    put(guarded_app, day, [(USER, "ETH", str(-held)), (OTHER, "ETH", str(held))]) if held else None
    assert balance(guarded_app, USER, "ETH") == 0
    with refused("23514", match="accounts_customer_not_negative"):
        put(guarded_app, day, [(USER, "ETH", f"-{UNIT}"), (OTHER, "ETH", UNIT)])


def test_house_account_of_any_class_may_be_negative(guarded_app: psycopg.Connection, guarded: BookUnderTest) -> None:
    put(guarded_app, open_day(guarded), [("suspense", "ETH", "-5"), ("deposits_unallocated", "ETH", "5")])


def test_amount_finer_than_its_asset_is_refused(guarded_app: psycopg.Connection, guarded: BookUnderTest) -> None:
    with refused("CL005", match="whole smallest units"):
        put(guarded_app, open_day(guarded), [(USER, "BTC", "0.000000001"), (WALLET, "BTC", "-0.000000001")])


def test_leg_in_an_asset_that_its_account_does_not_hold_is_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day, known = open_day(guarded), accounts(guarded_app, [(USER, "ETH", ""), (WALLET, "ETH", "")])
    posting = put_journal(guarded_app, day)
    with refused("CL005", match="does not hold"):
        guarded_app.execute(
            "INSERT INTO ledger.ledger_entries"
            " VALUES (%(p)s, %(d)s, %(a)s, 'BTC', 1), (%(p)s, %(d)s, %(b)s, 'BTC', -1)",
            {"p": posting, "d": day, "a": known[USER, "ETH"], "b": known[WALLET, "ETH"]},
        )


def test_a_trillion_at_eighteen_decimals_is_exact(guarded_app: psycopg.Connection, guarded: BookUnderTest) -> None:
    day, before = open_day(guarded), balance(guarded_app, USER, "ETH")
    amount = f"999999999999.{'9' * 18}"
    put(guarded_app, day, [(USER, "ETH", amount), (WALLET, "ETH", f"-{amount}")])
    put(guarded_app, day, [(USER, "ETH", UNIT), (WALLET, "ETH", f"-{UNIT}")])
    assert balance(guarded_app, USER, "ETH") - before == Decimal(10**12)


@pytest.mark.parametrize(
    ("amount", "state"), [("1e20", "22003"), ("NaN", "CL001"), ("Infinity", "22003"), ("0", "23514")]
)
def test_amount_beyond_numeric_or_no_number_at_all_is_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest, amount: str, state: str
) -> None:
    against = "NaN" if amount == "NaN" else f"-{amount}"
    with refused(state):
        put(guarded_app, open_day(guarded), [(USER, "ETH", amount), (WALLET, "ETH", against)])


def test_balance_that_would_not_fit_is_refused_though_each_leg_does(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    big = "60000000000000000000"
    put(guarded_app, open_day(guarded), [(USER, "ETH", big), (WALLET, "ETH", f"-{big}")])
    with refused("22003"):
        put(guarded_app, open_day(guarded), [(USER, "ETH", big), (WALLET, "ETH", f"-{big}")])


def test_prices_and_balances_that_are_no_numbers_are_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day = guarded.days[1]
    guarded_app.execute("SAVEPOINT one")
    for statement in (
        "INSERT INTO market.mark_ticks VALUES ('ETH', now(), 'NaN', 'test')",
        f"INSERT INTO market.mark_prices VALUES ('{day}', 1, 'ETH', 'NaN', 'test', now())",
        f"INSERT INTO exchange.engine_balances VALUES ('{day}', 1, 'u-0001', 'ETH', 'NaN', 0, 0, 0)",
    ):
        with refused("23514"):
            guarded_app.execute(statement.encode())
        guarded_app.execute("ROLLBACK TO one")


def test_account_without_a_class_and_user_named_like_the_house_are_refused(guarded_app: psycopg.Connection) -> None:
    guarded_app.execute("SAVEPOINT one")
    for name in ("nobody", "fee_income2", f"{USER}:pocket", "custody", "revenue_router:x"):
        with refused("23502"):
            accounts(guarded_app, [(name, "ETH", "")])
        guarded_app.execute("ROLLBACK TO one")
    for name in ("rounding", "suspense", "custody", "house", "fee_income", "A", "a b", "a\tb", ""):
        with refused("23514"):
            guarded_app.execute("INSERT INTO accounts.users (user_id, account) VALUES (999999, %s)", (name,))
        guarded_app.execute("ROLLBACK TO one")


def test_trade_journal_without_its_trade_and_a_second_one_for_a_trade_are_refused(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    guarded_app.execute("SAVEPOINT one")
    settled = guarded.value("SELECT max(trade_id) FROM exchange.trades")
    for reference in ("99999999999", str(settled), f"0{settled}"):
        with refused("CL005", match="is not the journal of trade"):
            put_journal(guarded_app, open_day(guarded), kind="trade", reference_type="trade", reference_id=reference)
        guarded_app.execute("ROLLBACK TO one")
    with refused("22P02"):
        put_journal(guarded_app, open_day(guarded), kind="trade", reference_type="trade", reference_id="x")


def test_reference_is_posted_once(guarded_app: psycopg.Connection, guarded: BookUnderTest) -> None:
    put_journal(guarded_app, open_day(guarded), reference_id="same")
    with refused("23505", match="journals_reference"):
        put_journal(guarded_app, open_day(guarded), reference_id="same", kind="withdrawal")


def test_same_reference_with_the_same_payload_exists_and_with_another_is_refused_naming_both(
    guarded: BookUnderTest,
) -> None:
    day = open_day(guarded)
    journal = Journal(
        "deposit", "deposit", "dep-77", 10**9, to_us(guarded.opened.policy_on(day).cutoff_rule.instant(day)) - 1, day,
        "engine", "deposit", (Leg(USER, "ETH", 10**18), Leg(WALLET, "ETH", -(10**18))),
    )  # fmt: skip
    other = Journal(
        journal.kind, journal.reference_type, journal.reference_id, journal.engine_seq, journal.effective_us, day,
        "engine", "deposit", (Leg(USER, "ETH", 10**18 + 1), Leg(WALLET, "ETH", -(10**18) - 1)),
    )  # fmt: skip
    with guarded.app() as connection, connection.transaction(force_rollback=True):
        assert postings.existing(connection, [journal]) == set()
        number = postings.post(connection, [journal], decimals={"ETH": 18}, actor="test", known={})
        assert postings.existing(connection, [journal]) == {("deposit", "dep-77")}
        with pytest.raises(LedgerRefusedError) as caught:
            postings.existing(connection, [other])
        for named in ("dep-77", f"posting {number}", journal.row_hash().hex(), other.row_hash().hex()):
            assert named in str(caught.value)


def test_row_hash_that_python_stores_is_the_one_that_sql_computes(guarded: BookUnderTest) -> None:
    for day in guarded.days:
        differ = "SELECT count(*) FROM ledger.journal_hashes(%s) WHERE stored IS DISTINCT FROM computed OR legs < 2"
        assert guarded.value(differ, day) == 0
        assert guarded.value("SELECT count(*) > 50 FROM ledger.journal_hashes(%s)", day) is True
