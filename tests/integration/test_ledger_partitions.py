"""A day's partition is a second door to the ledger with the same guards: what bites at the one bites at the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal

import psycopg
import pytest

from engine.store import migrate, postings
from pipelines.local.servers import ensure_servers
from pipelines.settings import Settings
from tests.fixtures.books import BookUnderTest, drop_database, replace_book
from tests.fixtures.legs import OTHER, UNIT, USER, WALLET, LegRow, accounts, balance, logins, put_journal
from tests.fixtures.seals import refused

PARENT = "ledger.ledger_entries"
COLUMNS = "posting_no, close_date, account_id, asset, amount"
Row = tuple[int, date, int, str, str]
Write = Callable[[psycopg.Connection, str, list[Row]], None]


def by_insert(app: psycopg.Connection, table: str, rows: list[Row]) -> None:
    values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(rows))
    app.execute(f"INSERT INTO {table} ({COLUMNS}) VALUES {values}".encode(), [x for row in rows for x in row])


def by_copy(app: psycopg.Connection, table: str, rows: list[Row]) -> None:
    postings.copy_rows(app, f"{table} ({COLUMNS})", rows)


@pytest.fixture(params=[by_insert, by_copy], ids=lambda way: way.__name__)
def write(request: pytest.FixtureRequest) -> Write:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["parent", "partition"])
def table(request: pytest.FixtureRequest, day: date) -> str:
    return PARENT if request.param == "parent" else postings.legs_of([day])


@pytest.fixture
def day(sealed_book: BookUnderTest) -> date:
    """The open one."""
    return sealed_book.days[1] + timedelta(days=1)


@pytest.fixture
def app(sealed_book: BookUnderTest) -> Iterator[psycopg.Connection]:
    """The application, inside a transaction that never commits."""
    with sealed_book.app() as connection, connection.transaction(force_rollback=True):
        yield connection


def rows(app: psycopg.Connection, posting: int, day: date, *legs: LegRow) -> list[Row]:
    known = accounts(app, legs)
    return [(posting, day, known[account, asset], asset, amount) for account, asset, amount in legs]


def test_legs_of_several_dates_or_none_go_to_the_parent() -> None:
    assert postings.legs_of([date(2026, 3, 2)]) == "ledger.ledger_entries_20260302"
    assert postings.legs_of([date(2026, 3, 2), date(2026, 3, 3)]) == PARENT
    assert postings.legs_of([]) == PARENT


def test_balanced_journal_is_taken_and_moves_each_balance_once(
    app: psycopg.Connection, day: date, table: str, write: Write
) -> None:
    before = [balance(app, account, "ETH") for account in (USER, WALLET)]
    posting = put_journal(app, day)
    write(app, table, rows(app, posting, day, (USER, "ETH", "2.5"), (WALLET, "ETH", "-2.5")))
    after = [balance(app, account, "ETH") for account in (USER, WALLET)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [Decimal("2.5"), Decimal("-2.5")]
    assert app.execute(f"SELECT count(*) FROM {PARENT} WHERE posting_no = %s".encode(), (posting,)).fetchone() == (2,)


@pytest.mark.parametrize(
    ("legs", "state", "match"),
    [
        ([(USER, "ETH", f"2{UNIT[1:]}"), (WALLET, "ETH", "-2")], "CL001", "off by 0.000000000000000001 ETH"),
        ([(USER, "ETH", "1")], "CL001", "off by"),
        ([(USER, "ETH", "1"), (WALLET, "BTC", "-1")], "CL001", "off by"),
        ([(USER, "ETH", "NaN"), (WALLET, "ETH", "NaN")], "CL001", "off by"),
        ([(USER, "BTC", "0.000000001"), (WALLET, "BTC", "-0.000000001")], "CL005", "whole smallest units"),
        ([(USER, "ETH", "-1e12"), (OTHER, "ETH", "1e12")], "23514", "accounts_customer_not_negative"),
        ([(USER, "ETH", "0"), (WALLET, "ETH", "0")], "23514", "amount"),
        ([(USER, "ETH", "1e20"), (WALLET, "ETH", "-1e20")], "22003", "overflow"),
    ],
)
def test_legs_that_the_guard_refuses_are_refused_at_both_doors(
    app: psycopg.Connection, day: date, table: str, write: Write, legs: list[LegRow], state: str, match: str
) -> None:
    made = rows(app, put_journal(app, day), day, *legs)
    with refused(state, match=match):
        write(app, table, made)


def test_two_journals_of_one_statement_do_not_balance_each_other_at_either_door(
    app: psycopg.Connection, day: date, table: str, write: Write
) -> None:
    one, two = put_journal(app, day), put_journal(app, day)
    made = [*rows(app, one, day, (USER, "ETH", "1")), *rows(app, two, day, (WALLET, "ETH", "-1"))]
    with refused("CL001"):
        write(app, table, made)


def test_halves_of_a_journal_through_either_door_do_not_balance_each_other(
    app: psycopg.Connection, day: date, write: Write
) -> None:
    posting = put_journal(app, day)
    one, two = rows(app, posting, day, (USER, "ETH", "1"), (WALLET, "ETH", "-1"))
    with refused("CL001"):
        write(app, postings.legs_of([day]), [one])
        write(app, PARENT, [two])


def test_both_doors_in_one_statement_are_guarded_each_by_itself(app: psycopg.Connection, day: date) -> None:
    posting = put_journal(app, day)
    one, two = rows(app, posting, day, (USER, "ETH", "1"), (WALLET, "ETH", "-1"))
    door = f"INSERT INTO {{}} ({COLUMNS}) VALUES (%s, %s, %s, %s, %s)"
    both = f"WITH a AS ({door.format(postings.legs_of([day]))}) {door.format(PARENT)}"
    with refused("CL001"):
        app.execute(both.encode(), [*one, *two])


def test_account_of_another_asset_is_refused_at_both_doors(
    app: psycopg.Connection, day: date, table: str, write: Write
) -> None:
    posting = put_journal(app, day)
    made = rows(app, posting, day, (USER, "ETH", "1"), (WALLET, "ETH", "-1"))
    with refused("CL005", match="does not hold"):
        write(app, table, [(p, d, a, "BTC", x) for p, d, a, _, x in made])


def test_legs_without_a_journal_of_this_transaction_are_refused_at_every_partition(
    sealed_book: BookUnderTest, write: Write
) -> None:
    """Closed days too: their journals are refused, and no leg comes without one."""
    with sealed_book.admin() as owner:
        dates = [row[0] for row in owner.execute("SELECT close_date FROM close.days ORDER BY 1")]
        number = owner.execute("SELECT max(posting_no) FROM ledger.journals").fetchone()
    assert number is not None
    assert len(dates) >= 4
    for closed in dates:
        with sealed_book.app() as app, app.transaction(force_rollback=True):
            made = rows(app, number[0], closed, (USER, "ETH", "1"), (WALLET, "ETH", "-1"))
            with refused("CL005", match="no journal of that date in this transaction"):
                write(app, postings.legs_of([closed]), made)


def test_closed_date_takes_no_leg_of_an_open_days_journal(
    app: psycopg.Connection, sealed_book: BookUnderTest, day: date, write: Write
) -> None:
    posting, closed = put_journal(app, day), sealed_book.days[0]
    made = rows(app, posting, closed, (USER, "ETH", "1"), (WALLET, "ETH", "-1"))
    app.execute("SAVEPOINT one")
    for door in (PARENT, postings.legs_of([closed])):
        with refused("CL005", match="no journal of that date"):
            write(app, door, made)
        app.execute("ROLLBACK TO one")
    with refused("23514", match="partition constraint"):
        write(app, postings.legs_of([day]), made)


def test_nobody_changes_a_partition_and_nobody_but_the_application_adds_to_one(sealed_book: BookUnderTest) -> None:
    with sealed_book.admin() as owner:
        names = [
            str(row[0])
            for row in owner.execute(
                "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'ledger.ledger_entries'::regclass"
            )
        ]
        assert len(names) >= 4
        for name in names:
            for change in (f"UPDATE {name} SET amount = 1", f"DELETE FROM {name}", f"TRUNCATE {name}"):
                with refused("CL003", match="append-only"):
                    owner.execute(change.encode())
    for role, url in logins(sealed_book).items():
        with psycopg.connect(url.dsn(), autocommit=True) as connection:
            for name in names:
                changes = [f"UPDATE {name} SET amount = 1", f"DELETE FROM {name}", f"TRUNCATE {name}"]
                add = f"INSERT INTO {name} VALUES (1, '{name[-8:]}', 1, 'ETH', 5)"
                for statement in changes if role == "app" else [*changes, add, f"COPY {name} FROM STDIN"]:
                    with refused("42501"):
                        connection.execute(statement.encode())


def test_partition_of_a_day_that_opens_has_its_guards_before_anyone_may_write(
    app: psycopg.Connection, sealed_book: BookUnderTest, write: Write
) -> None:
    (last,) = app.execute("SELECT max(close_date) FROM close.days").fetchone() or (None,)
    assert last is not None
    new = last + timedelta(days=1)
    app.execute("SELECT close.open_day(%s)", (new,))
    made = rows(app, put_journal(app, new), new, (USER, "ETH", "1"), (WALLET, "ETH", "-2"))
    with refused("CL001"):
        write(app, postings.legs_of([new]), made)


def test_days_of_an_older_book_get_the_guards_when_it_is_migrated(settings: Settings) -> None:
    servers = ensure_servers(replace_book(settings, "olddays"), talk=lambda line: None, book="olddays")
    guards = (
        "SELECT c.relname, count(t.*), has_table_privilege('compline_app', c.oid, 'INSERT') FROM pg_inherits i"
        " JOIN pg_class c ON c.oid = i.inhrelid LEFT JOIN pg_trigger t ON t.tgrelid = c.oid"
        " WHERE i.inhparent = 'ledger.ledger_entries'::regclass GROUP BY c.oid, c.relname ORDER BY c.relname"
    )
    try:
        migrate.upgrade(servers.admin.dsn(), "0016")
        with psycopg.connect(servers.admin.dsn(), autocommit=True) as owner:
            owner.execute("INSERT INTO close.days (close_date, genesis) VALUES ('2026-03-01', true)")
            owner.execute("INSERT INTO close.days (close_date) VALUES ('2026-03-02')")
            for when in ("2026-03-01", "2026-03-02"):
                owner.execute("SELECT ledger.ensure_partition(%s)", (when,))
            names = [f"ledger_entries_2026030{n}" for n in (1, 2)]
            assert owner.execute(guards.encode()).fetchall() == [(name, 0, False) for name in names]
            assert migrate.upgrade(servers.admin.dsn()) == migrate.head()
            assert owner.execute(guards.encode()).fetchall() == [(name, 2, True) for name in names]
    finally:
        drop_database(servers, "olddays")
