"""Step `finance`: recorded like any step, idempotent, its failures named, and bounded in time."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from assets.finance.dbt_assets import build_dbt_assets, mart_key
from assets.finance.invoke import build
from assets.finance.project import marts
from assets.finance.step import finance_step
from engine.errors import GateError, StepTimeoutError, UncheckedError
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from tests.fixtures.books import BookUnderTest
from tests.fixtures.finance import FinanceUnderTest, HeldContext


def test_finance_of_a_date_runs_once(finance: FinanceUnderTest) -> None:
    day = finance.book.days[1]
    before = finance.contents()
    again = finance.run(day)
    assert (again.status, again.unchanged) == ("succeeded", True)
    assert finance.contents() == before


def test_finance_is_recorded_in_its_own_row_and_tells_nobody(finance: FinanceUnderTest) -> None:
    day = finance.book.days[0]
    rows = finance.rows(
        "SELECT status, row_count FROM close.eod_runs WHERE close_date = %s AND step_name = 'finance'", day
    )
    assert rows == [("succeeded", sum(len(v) for v in _of(finance, day).values()))]
    assert finance.book.value("SELECT count(*) FROM events.outbox WHERE subject LIKE 'eod.finance.%%'") == 0


def test_finance_changes_nothing_of_the_close(closed: FinanceUnderTest) -> None:
    before = closed.book.state_digest()
    closed.run(closed.book.days[0])
    assert closed.book.state_digest() == before


def test_day_that_is_not_sealed_is_refused(closed: FinanceUnderTest) -> None:
    day = closed.book.days[1]
    with pytest.raises(GateError, match="only seals enter the marts"):
        closed.run(day)
    with closed.book.closing(day) as context:
        run_step(STEPS[0], context)
    with pytest.raises(GateError, match="only seals enter the marts"):
        closed.run(day)


def test_mart_that_was_touched_is_built_again(built: FinanceUnderTest) -> None:
    day = built.book.days[0]
    before = built.contents()
    built.execute("DELETE FROM finance.fct_daily_fees WHERE role = 'maker'")
    assert built.run(day).unchanged is False
    assert built.contents() == before


def test_dropped_view_is_made_again(built: FinanceUnderTest) -> None:
    day = built.book.days[0]
    built.execute("DROP VIEW finance.int_trade_fees; DELETE FROM finance.fct_daily_fees")
    assert built.run(day).status == "succeeded"


def test_mart_with_other_columns_is_rebuilt_whole(built: FinanceUnderTest) -> None:
    second = built.book.days[1]
    before = built.contents()
    built.execute("ALTER TABLE finance.fct_daily_fees DROP COLUMN quote_quantity")
    built.book.close(second)
    assert built.run(second).status == "succeeded"
    assert set(before["fct_daily_fees"]) < set(built.contents()["fct_daily_fees"])


def test_failing_dbt_test_is_named_and_the_step_failed(closed: FinanceUnderTest) -> None:
    day = closed.book.days[0]
    _tamper(closed.book)
    result = closed.run(day)
    assert result.status == "failed"
    assert {line.split(":")[0] for line in result.metadata["broken"]} >= {"balances_equal_control_totals"}
    assert closed.rows("SELECT status FROM close.eod_runs WHERE step_name = 'finance'") == [("failed",)]
    _tamper(closed.book, -1)
    assert closed.run(day).status == "succeeded"


def test_failing_dbt_test_fails_the_run_and_its_check(closed: FinanceUnderTest) -> None:
    _tamper(closed.book)
    done = _materialize(closed)
    assert done.success is False
    failed = {e.check_name for e in done.get_asset_check_evaluations() if not e.passed}
    assert "balances_equal_control_totals" in failed
    assert "fees_equal_accruals" not in failed
    assert len(done.get_asset_materialization_events()) == len(marts())


def test_all_marts_and_checks_of_a_date_are_reported(closed: FinanceUnderTest) -> None:
    done = _materialize(closed)
    assert done.success
    assert {e.asset_key for e in done.get_asset_materialization_events()} == {mart_key(m.name) for m in marts()}
    told = {(e.asset_key, e.check_name) for e in done.get_asset_check_evaluations()}
    assert told == {(mart_key(m.name), t.name) for m in marts() for t in m.tests}
    assert all(e.passed for e in done.get_asset_check_evaluations())


def test_subset_reports_what_was_selected_alone(closed: FinanceUnderTest) -> None:
    done = _materialize(closed, "fct_daily_fees")
    assert done.success
    assert [e.asset_key for e in done.get_asset_materialization_events()] == [mart_key("fct_daily_fees")]
    assert {e.asset_key for e in done.get_asset_check_evaluations()} == {mart_key("fct_daily_fees")}


def test_login_that_is_refused_is_unchecked(closed: FinanceUnderTest) -> None:
    wrong = finance_step(replace(closed.login, password="wrong"))
    with closed.book.closing(closed.book.days[0]) as context, pytest.raises(UncheckedError):
        run_step(wrong, context)
    assert closed.rows("SELECT status FROM close.eod_runs WHERE step_name = 'finance'") == [("unknown",)]


def test_build_that_waits_too_long_is_ended_on_the_server_too(built: FinanceUnderTest) -> None:
    day = built.book.days[0]
    before = built.contents()
    with built.book.admin() as owner, owner.transaction():
        owner.execute("LOCK TABLE exchange.trades IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StepTimeoutError):
            build(built.login, day, limit_s=1.0)
        left = owner.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'compline dbt %' AND datname ="
            " current_database()"
        ).fetchone()
    assert left == (0,)
    assert built.contents() == before


def _of(finance: FinanceUnderTest, day: object) -> dict[str, list[Any]]:
    return {
        mart.name: finance.rows(f"SELECT 1 FROM finance.{mart.name} WHERE close_date = %s", day) for mart in marts()
    }


def _tamper(book: BookUnderTest, sign: int = 1) -> None:
    """Move one smallest unit in a control total, as its owner could."""
    with book.admin() as owner:
        owner.execute(
            "UPDATE ledger.control_totals SET credits = credits + %(u)s, closing = closing + %(u)s"
            " WHERE close_date = %(d)s AND liability_class = 'customer' AND asset = ("
            "  SELECT min(asset) FROM ledger.control_totals WHERE close_date = %(d)s AND liability_class = 'customer')",
            {"u": Decimal(sign).scaleb(-18), "d": book.days[0]},
        )


def _materialize(finance: FinanceUnderTest, *names: str) -> dg.ExecuteInProcessResult:
    day = finance.book.days[0]
    partitions = dg.DailyPartitionsDefinition(start_date=str(day))

    @dg.asset(key=["close", "seals"], partitions_def=partitions)
    def seals() -> None: ...

    with finance.book.closing(day) as context:
        return dg.materialize(
            [*build_dbt_assets(partitions), seals],
            selection=[mart_key(name) for name in names or [mart.name for mart in marts()]],
            partition_key=str(day),
            resources={"close": HeldContext(finance.book, context), "finance_db": finance.login},
            raise_on_error=False,
        )
