"""The marts of a closed book: what the sealed books say, to the last unit, for the roles that may read them."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from assets.finance import manifest
from assets.finance.dbt_process import base_arguments, dbt_environment, work_folder
from assets.finance.invoke import MARTS_AND_TESTS, build
from engine.errors import UncheckedError
from pipelines.local.urls import FINANCE, embedded_login
from tests.fixtures.finance import FinanceUnderTest

MARTS = {
    "fct_daily_balances",
    "fct_daily_fees",
    "fct_daily_pnl",
    "fct_daily_volume_tiers",
    "fct_liabilities",
    "fct_staking_rewards",
    "fct_trial_balance",
}


def test_balances_sum_to_the_control_totals_of_customers(finance: FinanceUnderTest) -> None:
    mart = finance.rows(
        "SELECT close_date, asset, sum(total) FROM finance.fct_daily_balances GROUP BY 1, 2 ORDER BY 1, 2"
    )
    books = finance.rows(
        "SELECT close_date, asset, closing FROM ledger.control_totals"
        " WHERE liability_class = 'customer' AND closing <> 0 AND close_date = ANY(%s) ORDER BY 1, 2",
        finance.book.days,
    )
    assert mart == books
    assert len(mart) >= 4


def test_fees_equal_the_accruals_to_the_last_unit(finance: FinanceUnderTest) -> None:
    mart = finance.rows(
        "SELECT close_date, user_id, asset, role, sum(fee), sum(trades) FROM finance.fct_daily_fees"
        " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    )
    books = finance.rows(
        "SELECT close_date, user_id, asset, role, amount, trades FROM ledger.fee_accruals ORDER BY 1, 2, 3, 4"
    )
    assert mart == books
    assert any(row[4] != 0 for row in mart)


def test_gains_are_those_of_the_close_and_the_day_before_opens_the_next(finance: FinanceUnderTest) -> None:
    mart = finance.rows(
        "SELECT close_date, sum(realized), sum(trading_pnl), sum(fees_value) FROM finance.fct_daily_pnl"
        " GROUP BY 1 ORDER BY 1"
    )
    books = finance.rows(
        "SELECT close_date, sum(realized), sum(trading_pnl), sum(fees_value) FROM positions.realized_pnl"
        " GROUP BY 1 ORDER BY 1"
    )
    assert mart == books
    assert all(row[1] != 0 for row in mart)
    carried = finance.rows(
        "SELECT count(*) FROM finance.fct_daily_pnl a JOIN finance.fct_daily_pnl b USING (user_id, asset)"
        " WHERE a.close_date = b.close_date - 1 AND (a.closing_quantity, a.closing_value, a.closing_unrealized)"
        " IS DISTINCT FROM (b.opening_quantity, b.opening_value, b.opening_unrealized)"
    )
    assert carried == [(0,)]


@pytest.mark.parametrize(
    ("poison", "test"),
    [
        ("bought = bought + 1", "quantity_identity_of_positions"),
        ("realized = realized + 1, proceeds = proceeds + 1", "value_identity_of_users"),
        ("closing_unrealized = closing_unrealized + 1", "gains_are_what_they_are_made_of"),
        ("opening_value = opening_value + 0.000001", "value_identity_of_users"),
    ],
)
def test_identities_bite_in_the_mart(finance: FinanceUnderTest, poison: str, test: str) -> None:
    day = finance.book.days[1]
    finance.execute(
        f"UPDATE finance.fct_daily_pnl SET {poison} WHERE close_date = '{day}' AND (user_id, asset) ="
        f" (SELECT user_id, asset FROM finance.fct_daily_pnl WHERE close_date = '{day}' ORDER BY 1, 2 LIMIT 1)"
    )
    judged = build(finance.login, day, select=("fct_daily_pnl",), kinds=("test",))
    assert test in {one.name for one in judged if not one.fine}
    assert all(one.fine for one in build(finance.login, day, select=("fct_daily_pnl",)))


def test_every_row_names_the_sealed_books(finance: FinanceUnderTest) -> None:
    sealed = set(
        finance.rows("SELECT close_date, version, books_sha256 FROM close.seals WHERE kind = 'day' ORDER BY 1")
    )
    for mart in MARTS:
        assert set(finance.rows(f"SELECT DISTINCT close_date, version, books_sha256 FROM finance.{mart}")) == sealed


def test_building_a_date_again_changes_nothing(finance: FinanceUnderTest) -> None:
    before = finance.contents()
    for day in finance.book.days:
        assert all(one.fine for one in build(finance.login, day))
    assert finance.contents() == before


def test_full_refresh_equals_incremental(finance: FinanceUnderTest) -> None:
    before = finance.contents()
    assert all(one.fine for one in build(finance.login, finance.book.days[0], full_refresh=True))
    assert finance.contents() == before
    assert _readable_by_finance(finance) == MARTS


def test_models_pass_their_unit_tests(finance: FinanceUnderTest) -> None:
    done = build(finance.login, finance.book.days[0], kinds=("model", "unit_test"))
    assert len([one for one in done if one.kind == "unit_test"]) == 9
    assert [one.message for one in done if not one.fine] == []


def test_unsealed_day_gives_no_rows(closed: FinanceUnderTest) -> None:
    first, second = closed.book.days
    assert all(one.fine for one in build(closed.login, second))
    assert {mart: closed.rows(f"SELECT DISTINCT close_date FROM finance.{mart}") for mart in MARTS} == {
        mart: [(first,)] for mart in MARTS
    }


def test_rows_of_a_date_go_when_its_seal_does(built: FinanceUnderTest) -> None:
    first, second = built.book.days
    built.book.close(second)
    built.run(second)
    with built.book.admin() as owner:
        owner.execute("ALTER TABLE close.seals DISABLE TRIGGER USER")
        owner.execute("ALTER TABLE reserves.log_entries DISABLE TRIGGER USER")
        owner.execute("DELETE FROM reserves.log_entries WHERE log_index = 1")
        owner.execute("DELETE FROM close.seals WHERE close_date = %s", (second,))
    build(built.login, second)
    for mart in MARTS:
        assert built.rows(f"SELECT DISTINCT close_date FROM finance.{mart}") == [(first,)]


def test_finance_reads_the_marts_and_nothing_else(finance: FinanceUnderTest) -> None:
    assert _readable_by_finance(finance) == MARTS


def test_finance_login_is_refused_what_is_behind_the_marts(finance: FinanceUnderTest) -> None:
    settings = finance.book.opened.settings
    if not settings.embedded_postgres:
        pytest.skip("on a real server compline_finance is a group without a login")
    login = embedded_login(settings.home, FINANCE, finance.login.database)
    with psycopg.connect(login.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM finance.fct_daily_fees").fetchone() != (0,)
        for hidden in ("finance.stg_exchange__trades", "exchange.trades", "accounts.users", "close.seals"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {hidden}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM finance.fct_daily_fees")


def test_no_amount_of_finance_is_a_float(finance: FinanceUnderTest) -> None:
    kinds = finance.rows(
        "SELECT DISTINCT data_type, numeric_precision, numeric_scale FROM information_schema.columns"
        " WHERE table_schema = 'finance' AND data_type IN ('real', 'double precision', 'numeric')"
        " AND table_name = ANY(%s)",
        sorted(MARTS),
    )
    assert kinds == [("numeric", 38, 18)]
    assert (
        finance.rows(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'finance' AND data_type IN ('real', 'double precision')"
        )
        == []
    )


def test_dbt_leaves_no_connection_and_no_file(finance: FinanceUnderTest) -> None:
    build(finance.login, finance.book.days[0])
    left = finance.rows(
        "SELECT application_name FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
    )
    assert left == []
    assert [path.name for path in (finance.login.home / "dbt").iterdir() if not path.name.startswith("manifest-")] == []


def test_build_without_a_date_is_refused(finance: FinanceUnderTest) -> None:
    from dbt.cli.main import dbtRunner

    login = finance.login
    prepared = manifest.for_database(login.home, login.database)
    where = {"host": login.host, "port": str(login.port), "user": login.user, "password": login.password}
    before = finance.contents()
    for kind in ("model", "test"):
        with work_folder(manifest.cache_folder(login.home)) as work, dbt_environment(**where, dbname=login.database):
            arguments = ["build", "--resource-type", kind, "--select", *MARTS_AND_TESTS, *base_arguments(work)]
            done = dbtRunner(manifest=prepared).invoke(arguments)
        # What stands behind a refused one is skipped.
        assert {str(one.status) for one in done.result.results} <= {"error", "skipped"}
        assert any("close_date is ''" in str(one.message) for one in done.result.results)
    assert finance.contents() == before


def test_database_that_does_not_answer_is_unchecked(finance: FinanceUnderTest) -> None:
    with pytest.raises(UncheckedError):
        build(replace(finance.login, port=1), finance.book.days[0])


def _readable_by_finance(finance: FinanceUnderTest) -> set[str]:
    with finance.book.admin() as owner:
        rows = owner.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'v', 'm', 'p')"
            " AND has_table_privilege('compline_finance', c.oid, 'SELECT')"
        ).fetchall()
    return {str(row[0]) for row in rows}
