"""What the database refuses of the ledger by who asks and for which day: append-only tables, the close, day zero."""

from __future__ import annotations

from datetime import date, timedelta

import psycopg
import pytest

from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.legs import (
    USER,
    logins,
    open_day,
    put,
    put_journal,
)
from tests.fixtures.seals import refused

APPEND_ONLY = (
    "ledger.journals",
    "ledger.ledger_entries",
    "exchange.trades",
    "close.seals",
    "reserves.log_entries",
    "close.policies",
)


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


def test_correction_is_refused_while_nothing_ties_it_to_a_break_and_two_people(
    guarded_app: psycopg.Connection, guarded: BookUnderTest
) -> None:
    with refused("CL002", match="origin correction"):
        put_journal(guarded_app, open_day(guarded), origin="correction", kind="correction", engine_seq=None)


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
