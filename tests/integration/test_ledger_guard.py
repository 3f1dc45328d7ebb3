"""What the database refuses of the ledger, whoever asks: raw SQL and COPY as the application, and every other role."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal

import psycopg
import pytest

from engine.clock import to_us
from engine.errors import LedgerRefusedError
from engine.ledger.journal import Journal, Leg
from engine.steps import cutoff
from engine.steps.runner import run_step
from engine.store import postings
from pipelines.local.urls import AUDITOR, FINANCE, DatabaseUrl, Servers, embedded_login
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book

LegRow = tuple[str, str, str]
UNIT = "0.000000000000000001"
USER, OTHER, WALLET = "u-0001", "u-0002", "custody:main"
APPEND_ONLY = (
    "ledger.journals",
    "ledger.ledger_entries",
    "exchange.trades",
    "close.seals",
    "reserves.log_entries",
    "close.policies",
)
_references = itertools.count(1)


@pytest.fixture(scope="module")
def guarded(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """A book with a sealed day, a day in cutoff and an open one; everything tried on it is rolled back."""
    made = new_book(settings, SMALL, name="guard")
    made.close(made.days[0])
    with made.closing(made.days[1]) as context:
        run_step(cutoff.STEP, context)
    yield made
    drop_book(made)


@pytest.fixture
def app(guarded: BookUnderTest) -> Iterator[psycopg.Connection]:
    """The application, inside a transaction that never commits."""
    with guarded.app() as connection, connection.transaction(force_rollback=True):
        yield connection


def open_day(book: BookUnderTest) -> date:
    return book.days[1] + timedelta(days=1)


@contextmanager
def refused(state: str, match: str | None = None) -> Iterator[None]:
    with pytest.raises(psycopg.Error, match=match) as caught:
        yield
    assert caught.value.sqlstate == state, str(caught.value)


def accounts(connection: psycopg.Connection, legs: Sequence[LegRow]) -> dict[tuple[str, str], int]:
    rows = connection.execute(
        "SELECT account, asset, account_id FROM ledger.ensure_accounts(%s, %s)",
        ([leg[0] for leg in legs], [leg[1] for leg in legs]),
    )
    return {(account, asset): number for account, asset, number in rows}


def put_journal(connection: psycopg.Connection, day: date, **changes: object) -> int:
    """A journal row as the application can write it, whatever its hash says; returns its posting number."""
    (number,) = connection.execute("SELECT ledger.reserve_postings(1)").fetchone() or (0,)
    row = {
        "posting_no": number,
        "kind": "deposit",
        "reference_type": "test",
        "reference_id": f"t-{next(_references)}",
        "engine_seq": 10**9,
        "effective_at": "2026-03-04T10:00:00Z",
        "close_date": day,
        "origin": "engine",
        "epoch": None,
        "actor": "test",
        "reason": "test",
        "row_hash": b"\0" * 32,
    } | changes
    columns, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO ledger.journals ({columns}) VALUES ({marks})".encode(), list(row.values()))
    return int(number)


def put_legs(connection: psycopg.Connection, day: date, posting: int, legs: Sequence[LegRow]) -> None:
    known = accounts(connection, legs)
    values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(legs))
    connection.execute(
        f"INSERT INTO ledger.ledger_entries VALUES {values}".encode(),
        [x for leg in legs for x in (posting, day, known[leg[0], leg[1]], leg[1], leg[2])],
    )


def put(connection: psycopg.Connection, day: date, legs: Sequence[LegRow], **changes: object) -> int:
    posting = put_journal(connection, day, **changes)
    put_legs(connection, day, posting, legs)
    return posting


def put_by_copy(connection: psycopg.Connection, day: date, legs: Sequence[LegRow]) -> None:
    posting, known = put_journal(connection, day), accounts(connection, legs)
    target = "ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)"
    postings.copy_rows(connection, target, [(posting, day, known[x[0], x[1]], x[1], x[2]) for x in legs])


def balance(connection: psycopg.Connection, account: str, asset: str) -> Decimal:
    row = connection.execute(
        "SELECT balance FROM ledger.accounts WHERE account = %s AND asset = %s", (account, asset)
    ).fetchone()
    return Decimal(row[0]) if row else Decimal(0)


@pytest.mark.parametrize("way", [put, put_by_copy])
def test_balanced_journal_is_taken_and_moves_the_balances_by_its_legs(
    app: psycopg.Connection, guarded: BookUnderTest, way: object
) -> None:
    before = balance(app, USER, "ETH")
    legs = [(USER, "ETH", f"1{UNIT[1:]}"), (WALLET, "ETH", f"-1{UNIT[1:]}")]
    way(app, open_day(guarded), legs)  # type: ignore[operator]
    assert balance(app, USER, "ETH") - before == Decimal(1) + Decimal(UNIT)


@pytest.mark.parametrize("way", [put, put_by_copy])
@pytest.mark.parametrize("off", ["1", UNIT, f"-{UNIT}", "1000000000000"])
def test_journal_off_in_one_asset_is_refused_down_to_one_unit_of_ten_to_minus_eighteen(
    app: psycopg.Connection, guarded: BookUnderTest, way: object, off: str
) -> None:
    legs = [(USER, "ETH", str(Decimal(2) + Decimal(off))), (WALLET, "ETH", "-2")]
    with refused("CL001", match=r"off by .* ETH"):
        way(app, open_day(guarded), legs)  # type: ignore[operator]


def test_two_assets_off_by_opposite_amounts_do_not_cancel_out(app: psycopg.Connection, guarded: BookUnderTest) -> None:
    legs = [(USER, "ETH", "3"), (WALLET, "ETH", "-2"), (USER, "BTC", "1"), (WALLET, "BTC", "-2")]
    with refused("CL001"):
        put(app, open_day(guarded), legs)


def test_two_journals_of_one_statement_do_not_balance_each_other(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day = open_day(guarded)
    one, two = put_journal(app, day), put_journal(app, day)
    known = accounts(app, [(USER, "ETH", ""), (WALLET, "ETH", "")])
    target = "ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)"
    rows = [(one, day, known[USER, "ETH"], "ETH", "1"), (two, day, known[WALLET, "ETH"], "ETH", "-1")]
    with refused("CL001"):
        postings.copy_rows(app, target, rows)


def test_legs_of_one_journal_split_over_two_statements_are_refused(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day = open_day(guarded)
    posting = put_journal(app, day)
    with refused("CL001"):
        put_legs(app, day, posting, [(USER, "ETH", "1")])


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
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    posting = put_journal(app, open_day(guarded))
    with refused("CL005"):
        put_legs(app, guarded.days[0], posting, [(USER, "ETH", "1"), (WALLET, "ETH", "-1")])


def logins(book: BookUnderTest) -> dict[str, DatabaseUrl]:
    """Every role of the product that this machine can log in as."""
    servers = book.opened.servers
    found = {"app": servers.app, "dbt": servers.dbt, "collector": servers.collector}
    if servers.embedded_postgres:
        for role in (FINANCE, AUDITOR):
            found[role] = embedded_login(book.opened.settings.home, role, servers.app.database)
    return found


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_no_role_updates_deletes_or_truncates_what_is_append_only(guarded: BookUnderTest, table: str) -> None:
    column = {"close.seals": "manifest = ''", "reserves.log_entries": "entry = ''", "close.policies": "reason = ''"}
    change = column.get(table, "close_date = close_date")
    for url in logins(guarded).values():
        with psycopg.connect(url.dsn(), autocommit=True) as connection:
            for statement in (f"UPDATE {table} SET {change}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
                with refused("42501"):
                    connection.execute(statement.encode())
    with guarded.admin() as owner:
        for statement in (f"UPDATE {table} SET {change}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            with refused("CL003", match="append-only"):
                owner.execute(statement.encode())


def test_nobody_writes_a_balance(guarded: BookUnderTest) -> None:
    statements = (
        "UPDATE ledger.accounts SET balance = balance + 1",
        "INSERT INTO ledger.accounts (account, asset, liability_class, balance) VALUES ('x', 'ETH', 'asset', 1)",
        "DELETE FROM ledger.accounts",
        "INSERT INTO ledger.daily_balances VALUES ('2026-03-02', 1, 1, 5)",
        "INSERT INTO ledger.control_totals VALUES ('2026-03-02', 1, 'ETH', 'equity', 0, 0, 0, 0, 0)",
    )
    for url in logins(guarded).values():
        with psycopg.connect(url.dsn(), autocommit=True) as connection:
            for statement in statements:
                with refused("42501"):
                    connection.execute(statement.encode())


def test_sealed_day_day_in_cutoff_and_unknown_day_take_no_journal_of_the_engine(guarded: BookUnderTest) -> None:
    zero = guarded.days[0] - timedelta(days=1)
    for day in (zero, *guarded.days, date(2030, 1, 1)):
        with guarded.app() as connection, refused("CL002", match=str(day)):
            put_journal(connection, day)


def test_sealed_day_takes_no_trade(guarded: BookUnderTest) -> None:
    columns = (
        "trade_id, posting_no, engine_seq, fill_index, close_date, sequenced_at, effective_at, market, price, quantity,"
        " quote_quantity, taker_side, maker_id, taker_id, maker_order_id, taker_order_id, maker_fee, taker_fee,"
        " maker_rate_ppm, taker_rate_ppm"
    )
    for day in guarded.days:
        changed = columns.replace("trade_id,", "trade_id + 10000000,").replace("close_date,", f"'{day}',")
        with guarded.app() as connection, refused("CL002", match="takes no trade"):
            connection.execute(
                f"INSERT INTO exchange.trades ({columns}) SELECT {changed} FROM exchange.trades LIMIT 1".encode()
            )


def test_close_journal_touches_house_accounts_only(guarded: BookUnderTest) -> None:
    day = guarded.days[1]
    kind = {"kind": "fee_accrual", "origin": "close", "engine_seq": None}
    with guarded.closing(day) as context, guarded.app() as connection:
        with connection.transaction(force_rollback=True):
            put(
                connection,
                day,
                [("fee_clearing", "ETH", "-1"), ("fee_income", "ETH", "1")],
                epoch=context.epoch,
                **kind,
            )
        for customer in (USER, f"{USER}:in_transit", f"{USER}:staked", f"customer_receivable:{USER}"):
            with refused("CL004", match=customer), connection.transaction():
                put(
                    connection,
                    day,
                    [("fee_clearing", "ETH", "-1"), (customer, "ETH", "1")],
                    epoch=context.epoch,
                    **kind,
                )


def test_close_journal_needs_the_current_epoch_of_a_held_lease(guarded: BookUnderTest) -> None:
    day = guarded.days[1]
    kind = {"kind": "fee_accrual", "origin": "close", "engine_seq": None}
    with guarded.closing(day) as context, guarded.app() as connection:
        for epoch in (context.epoch - 1, context.epoch + 1):
            with refused("CL006"):
                put_journal(connection, day, epoch=epoch, **kind)
        with refused("23514", match="journals_close_has_epoch"):
            put_journal(connection, day, epoch=None, **kind)
        with connection.transaction(force_rollback=True):
            put_journal(connection, day, epoch=context.epoch, **kind)
        held = context.epoch
    with guarded.app() as connection, refused("CL006"):
        put_journal(connection, day, epoch=held, **kind)


def test_close_journal_into_an_open_or_sealed_day_is_refused(guarded: BookUnderTest) -> None:
    kind = {"kind": "fee_accrual", "origin": "close", "engine_seq": None}
    for day in (guarded.days[0], open_day(guarded)):
        with guarded.closing(day) as context, guarded.app() as connection, refused("CL002"):
            put_journal(connection, day, epoch=context.epoch, **kind)


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
    app: psycopg.Connection, guarded: BookUnderTest, changes: dict[str, object], constraint: str
) -> None:
    with refused("23514", match=constraint):
        put_journal(app, open_day(guarded), **changes)


def test_correction_is_refused_while_nothing_ties_it_to_a_break_and_two_people(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    with refused("CL002", match="origin correction"):
        put_journal(app, open_day(guarded), origin="correction", kind="correction", engine_seq=None)


def test_customer_balance_never_becomes_negative_not_even_by_one_unit(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day, held = open_day(guarded), balance(app, USER, "ETH")
    put(app, day, [(USER, "ETH", str(-held)), (OTHER, "ETH", str(held))]) if held else None
    assert balance(app, USER, "ETH") == 0
    with refused("23514", match="accounts_customer_not_negative"):
        put(app, day, [(USER, "ETH", f"-{UNIT}"), (OTHER, "ETH", UNIT)])


def test_house_account_of_any_class_may_be_negative(app: psycopg.Connection, guarded: BookUnderTest) -> None:
    put(app, open_day(guarded), [("suspense", "ETH", "-5"), ("deposits_unallocated", "ETH", "5")])


def test_amount_finer_than_its_asset_is_refused(app: psycopg.Connection, guarded: BookUnderTest) -> None:
    with refused("CL005", match="whole smallest units"):
        put(app, open_day(guarded), [(USER, "BTC", "0.000000001"), (WALLET, "BTC", "-0.000000001")])


def test_leg_in_an_asset_that_its_account_does_not_hold_is_refused(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    day, known = open_day(guarded), accounts(app, [(USER, "ETH", ""), (WALLET, "ETH", "")])
    posting = put_journal(app, day)
    with refused("CL005", match="does not hold"):
        app.execute(
            "INSERT INTO ledger.ledger_entries"
            " VALUES (%(p)s, %(d)s, %(a)s, 'BTC', 1), (%(p)s, %(d)s, %(b)s, 'BTC', -1)",
            {"p": posting, "d": day, "a": known[USER, "ETH"], "b": known[WALLET, "ETH"]},
        )


def test_a_trillion_at_eighteen_decimals_is_exact(app: psycopg.Connection, guarded: BookUnderTest) -> None:
    day, before = open_day(guarded), balance(app, USER, "ETH")
    amount = f"999999999999.{'9' * 18}"
    put(app, day, [(USER, "ETH", amount), (WALLET, "ETH", f"-{amount}")])
    put(app, day, [(USER, "ETH", UNIT), (WALLET, "ETH", f"-{UNIT}")])
    assert balance(app, USER, "ETH") - before == Decimal(10**12)


@pytest.mark.parametrize(
    ("amount", "state"), [("1e20", "22003"), ("NaN", "CL001"), ("Infinity", "22003"), ("0", "23514")]
)
def test_amount_beyond_numeric_or_no_number_at_all_is_refused(
    app: psycopg.Connection, guarded: BookUnderTest, amount: str, state: str
) -> None:
    against = "NaN" if amount == "NaN" else f"-{amount}"
    with refused(state):
        put(app, open_day(guarded), [(USER, "ETH", amount), (WALLET, "ETH", against)])


def test_balance_that_would_not_fit_is_refused_though_each_leg_does(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    big = "60000000000000000000"
    put(app, open_day(guarded), [(USER, "ETH", big), (WALLET, "ETH", f"-{big}")])
    with refused("22003"):
        put(app, open_day(guarded), [(USER, "ETH", big), (WALLET, "ETH", f"-{big}")])


def test_prices_and_balances_that_are_no_numbers_are_refused(app: psycopg.Connection, guarded: BookUnderTest) -> None:
    day = guarded.days[1]
    app.execute("SAVEPOINT one")
    for statement in (
        "INSERT INTO market.mark_ticks VALUES ('ETH', now(), 'NaN', 'test')",
        f"INSERT INTO market.mark_prices VALUES ('{day}', 1, 'ETH', 'NaN', 'test', now())",
        f"INSERT INTO exchange.engine_balances VALUES ('{day}', 1, 'u-0001', 'ETH', 'NaN', 0, 0, 0)",
    ):
        with refused("23514"):
            app.execute(statement.encode())
        app.execute("ROLLBACK TO one")


def test_account_without_a_class_and_user_named_like_the_house_are_refused(app: psycopg.Connection) -> None:
    app.execute("SAVEPOINT one")
    for name in ("nobody", "fee_income2", f"{USER}:pocket", "custody", "revenue_router:x"):
        with refused("23502"):
            accounts(app, [(name, "ETH", "")])
        app.execute("ROLLBACK TO one")
    for name in ("rounding", "suspense", "custody", "house", "fee_income", "A", "a b", "a\tb", ""):
        with refused("23514"):
            app.execute("INSERT INTO accounts.users (user_id, account) VALUES (999999, %s)", (name,))
        app.execute("ROLLBACK TO one")


def test_trade_journal_without_its_trade_and_a_second_one_for_a_trade_are_refused(
    app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    app.execute("SAVEPOINT one")
    settled = guarded.value("SELECT max(trade_id) FROM exchange.trades")
    for reference in ("99999999999", str(settled), f"0{settled}"):
        with refused("CL005", match="is not the journal of trade"):
            put_journal(app, open_day(guarded), kind="trade", reference_type="trade", reference_id=reference)
        app.execute("ROLLBACK TO one")
    with refused("22P02"):
        put_journal(app, open_day(guarded), kind="trade", reference_type="trade", reference_id="x")


def test_reference_is_posted_once(app: psycopg.Connection, guarded: BookUnderTest) -> None:
    put_journal(app, open_day(guarded), reference_id="same")
    with refused("23505", match="journals_reference"):
        put_journal(app, open_day(guarded), reference_id="same", kind="withdrawal")


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


def test_genesis_journal_is_taken_by_day_zero_alone_and_day_zero_takes_no_other(make_book: MakeBook) -> None:
    fresh = make_book(None)
    zero = fresh.opened.book.first_day - timedelta(days=1)
    genesis = {"kind": "opening_balance", "origin": "genesis"}
    with fresh.app() as connection:
        connection.execute("INSERT INTO exchange.assets VALUES ('ETH', 1, 18)")
        connection.execute("INSERT INTO accounts.users (user_id, account) VALUES (1, %s)", (USER,))
        connection.execute("SELECT close.open_day(%s)", (fresh.days[0],))
        with connection.transaction(force_rollback=True):
            put(connection, zero, [(USER, "ETH", "1"), ("opening_equity", "ETH", "-1")], **genesis)
        for day, changes in ((fresh.days[0], genesis), (zero, {}), (zero - timedelta(days=1), genesis)):
            with refused("CL002"):
                put_journal(connection, day, **changes)


def test_days_open_in_order_and_not_before_genesis(guarded: BookUnderTest) -> None:
    last = guarded.value("SELECT max(close_date) FROM close.days")
    assert isinstance(last, date)
    with guarded.app() as connection:
        for day in (last + timedelta(days=2), guarded.days[0] - timedelta(days=2)):
            with refused("CL008"):
                connection.execute("SELECT close.open_day(%s)", (day,))
