"""The shape of a day's captured inputs: a whole day passes, and each kind of damage is found and shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from checks.closing import RUNBOOKS
from checks.gates import GATES
from checks.gx_run import SHOWN, Finding, validate_day
from checks.input_shape import ASSET, NAME, build_input_shape_check
from engine.errors import UncheckedError
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, drop_book, new_book
from tests.fixtures.finance import HeldContext

LOOSEN = """
ALTER TABLE exchange.trades DISABLE TRIGGER USER;
ALTER TABLE exchange.trades DROP CONSTRAINT trades_pkey;
ALTER TABLE exchange.trades DROP CONSTRAINT trades_taker_side_check;
ALTER TABLE exchange.trades ALTER taker_side DROP NOT NULL;
ALTER TABLE exchange.trades ALTER market DROP NOT NULL;
ALTER TABLE exchange.engine_balances DISABLE TRIGGER USER;
ALTER TABLE exchange.engine_balances DROP CONSTRAINT engine_balances_pkey;
ALTER TABLE market.mark_prices DISABLE TRIGGER USER;
ALTER TABLE market.mark_prices DROP CONSTRAINT mark_prices_source_check;
"""


@pytest.fixture(scope="module")
def loose(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """A sealed day in a copy whose constraints are gone: what a broken restore might hold."""
    made = new_book(settings, SMALL, name="gx")
    made.close(made.days[0])
    with made.admin() as owner:
        owner.execute(LOOSEN)
    yield made
    drop_book(made)


def test_captured_inputs_of_a_closed_day_have_the_expected_shape(sealed_book: BookUnderTest) -> None:
    for day in sealed_book.days:
        checked, findings = validate_day(_url(sealed_book), day, 1)
        assert findings == []
        assert checked > 40


@pytest.mark.parametrize(
    ("damage", "table", "rule", "rows"),
    [
        (
            "UPDATE exchange.trades SET taker_side = NULL WHERE trade_id = {trade}",
            "exchange.trades",
            "taker_side to not be null",
            1,
        ),
        (
            "UPDATE exchange.trades SET taker_side = 'both' WHERE trade_id = {trade}",
            "exchange.trades",
            "taker_side to be in set",
            1,
        ),
        (
            "INSERT INTO exchange.trades SELECT * FROM exchange.trades WHERE trade_id = {trade}",
            "exchange.trades",
            "trade_id to be unique",
            2,
        ),
        (
            "UPDATE exchange.trades SET market = 'XXX-YYY' WHERE trade_id = {trade}",
            "exchange.trades",
            "the market is known",
            1,
        ),
        (
            "UPDATE exchange.trades SET taker_id = 999999 WHERE trade_id = {trade}",
            "exchange.trades",
            "both sides are users",
            1,
        ),
        (
            "UPDATE exchange.engine_balances SET available = -0.00000001 WHERE {balance}",
            "exchange.engine_balances",
            "no user's balance is negative",
            1,
        ),
        (
            "UPDATE close.user_balance_snapshots SET available = available + 1e-18, total = total + 1e-18"
            " WHERE {balance}",
            "close.user_balance_snapshots",
            "it holds what the ledger owes",
            1,
        ),
        (
            "INSERT INTO exchange.engine_balances SELECT * FROM exchange.engine_balances WHERE {balance}",
            "exchange.engine_balances",
            "account and asset together are unique",
            1,
        ),
        (
            "UPDATE market.mark_prices SET source = 'A guess' WHERE asset = 'USDT'",
            "market.mark_prices",
            "source to match regex",
            1,
        ),
        (
            "DELETE FROM market.mark_prices WHERE asset = 'USDT'",
            "market.mark_prices",
            "every asset held has a mark",
            1,
        ),
    ],
)
def test_damage_is_found_and_its_rows_are_shown(
    loose: BookUnderTest, damage: str, table: str, rule: str, rows: int
) -> None:
    with _damaged(loose, damage):
        _, findings = validate_day(_url(loose), loose.days[0], 1)
    found = _of(findings, table, rule)
    assert found.rows == rows
    assert 1 <= len(found.sample) <= rows


def test_at_most_twenty_failing_rows_are_shown(loose: BookUnderTest) -> None:
    with _damaged(loose, "UPDATE exchange.trades SET taker_side = 'both', market = 'XXX-YYY'"):
        _, findings = validate_day(_url(loose), loose.days[0], 1)
    for rule in ("taker_side to be in set", "the market is known"):
        found = _of(findings, "exchange.trades", rule)
        assert found.rows > SHOWN
        assert len(found.sample) == SHOWN


def test_table_that_cannot_be_read_is_unchecked_not_passed(loose: BookUnderTest) -> None:
    with _damaged(loose, "ALTER TABLE market.mark_prices RENAME TO gone"):
        _, findings = validate_day(_url(loose), loose.days[0], 1)
        done = _run_check(loose)
    unread = {one.table for one in findings if one.why}
    assert unread == {"market.mark_prices", "close.user_balance_snapshots"}
    (evaluation,) = done.get_asset_check_evaluations()
    assert evaluation.passed is False
    assert "could not be checked" in str(evaluation.description)


def test_database_that_does_not_answer_is_unchecked(sealed_book: BookUnderTest) -> None:
    with pytest.raises(UncheckedError):
        validate_day("postgresql+psycopg://nobody:x@127.0.0.1:1/none", sealed_book.days[0], 1)


def test_a_run_leaves_no_connection_and_no_file(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    validate_day(_url(sealed_book), sealed_book.days[0], 1)
    assert list(tmp_path.iterdir()) == []
    assert (
        sealed_book.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'compline gx'"
            " AND datname = current_database()"
        )
        == 0
    )


def test_the_check_shows_rules_and_rows_and_stops_the_run(loose: BookUnderTest) -> None:
    with _damaged(loose, "UPDATE exchange.trades SET taker_side = 'both' WHERE trade_id = {trade}"):
        done = _run_check(loose)
    (evaluation,) = done.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.check_name, evaluation.blocking) == (False, NAME, True)
    assert "taker_side" in str(evaluation.description)
    assert {"rules", "failing rows", "runbook"} <= set(evaluation.metadata)
    assert not done.success


def test_the_check_passes_on_a_whole_day(loose: BookUnderTest) -> None:
    done = _run_check(loose)
    (evaluation,) = done.get_asset_check_evaluations()
    assert done.success
    assert evaluation.passed


def test_every_check_has_a_runbook() -> None:
    assert [name for name in (*GATES, NAME) if not (RUNBOOKS / f"{name}.md").is_file()] == []


def _url(book: BookUnderTest) -> str:
    return book.opened.servers.app.sqlalchemy("psycopg")


def _of(findings: list[Finding], table: str, rule: str) -> Finding:
    (found,) = [one for one in findings if (one.table, one.rule) == (table, rule)]
    return found


@contextmanager
def _damaged(book: BookUnderTest, damage: str) -> Iterator[None]:
    """Damage a day, and put back what was there."""
    tables = ("exchange.trades", "exchange.engine_balances", "market.mark_prices", "close.user_balance_snapshots")
    trade = book.value("SELECT min(trade_id) FROM exchange.trades WHERE close_date = %s", book.days[0])
    account = book.value("SELECT min(account) FROM close.user_balance_snapshots")
    with book.admin() as owner:
        for table in tables:
            owner.execute(f"CREATE TABLE accounts.kept_{table.split('.')[1]} AS SELECT * FROM {table}".encode())
        owner.execute(damage.format(trade=trade, balance=f"account = '{account}' AND asset = 'USDT'").encode())
        try:
            yield
        finally:
            if "RENAME" in damage:
                owner.execute("ALTER TABLE market.gone RENAME TO mark_prices")
            for table in tables:
                kept = f"accounts.kept_{table.split('.')[1]}"
                owner.execute(
                    f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {kept}; DROP TABLE {kept}".encode()
                )


def _run_check(book: BookUnderTest) -> dg.ExecuteInProcessResult:
    day = book.days[0]
    partitions = dg.DailyPartitionsDefinition(start_date=str(day))

    @dg.asset(key=list(ASSET), partitions_def=partitions)
    def snapshots() -> None: ...

    @dg.asset(key=["recon", "after"], partitions_def=partitions, deps=[snapshots])
    def after() -> None: ...

    with book.closing(day) as context:
        return dg.materialize(
            [snapshots, after, build_input_shape_check(partitions)],  # type: ignore[list-item]
            partition_key=str(day),
            resources={"close": HeldContext(book, context)},
            raise_on_error=False,
        )
