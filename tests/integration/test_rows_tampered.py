"""A row changed behind every trigger, in each table that a day consists of: no gate passes and nothing seals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from engine.errors import GateError
from engine.steps import seals
from engine.steps.context import StepContext
from engine.store import days
from engine.store.connect import translate
from tests.fixtures.books import BookUnderTest, one_snapshot
from tests.fixtures.seals import BEFORE_SEAL, run_to, state


@contextmanager
def tampered(book: BookUnderTest, table: str, statement: str) -> Iterator[tuple[psycopg.Connection, StepContext]]:
    """The owner's connection, with a table changed behind every trigger; rolled back at the end."""
    day = book.days[0]
    with book.closing(day) as context, one_snapshot(book.admin()) as owner, owner.transaction(force_rollback=True):
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        changed = owner.execute(f"UPDATE {table} SET {statement}".encode(), {"d": day})
        assert changed.rowcount >= 1
        owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
        yield owner, context


def try_to_seal(owner: psycopg.Connection, context: StepContext) -> None:
    day = days.read(owner, context.close_date)
    assert day is not None
    try:
        seals.STEP.write(owner, context, day)
    except psycopg.Error as error:
        raise translate(error) from error


ONE_LEG = (
    "amount = amount + 1 WHERE ctid IN (SELECT ctid FROM ledger.ledger_entries WHERE close_date = %(d)s LIMIT 1)"
    " AND tableoid IN (SELECT tableoid FROM ledger.ledger_entries WHERE close_date = %(d)s LIMIT 1)"
)
TAMPERING = [
    ("exchange.engine_balances", "locked = locked + 1e-18 WHERE close_date = %(d)s AND asset = 'ETH'", "books of"),
    ("market.mark_prices", "price = price + 1e-18 WHERE close_date = %(d)s AND asset = 'ETH'", "books of"),
    ("market.mark_prices", "source = 'me' WHERE close_date = %(d)s AND asset = 'ETH'", "books of"),
    ("market.mark_prices", "at = at - interval '1 us' WHERE close_date = %(d)s AND asset = 'ETH'", "books of"),
    ("ledger.daily_balances", "balance = balance + 1e-18 WHERE close_date = %(d)s", "books of"),
    ("ledger.journals", "row_hash = sha256(row_hash) WHERE posting_no = 1", "books of"),
    ("ledger.journals", "engine_seq = engine_seq + 1 WHERE posting_no = 1", "debits_equal_credits was pass"),
    ("ledger.journals", "effective_at = now() WHERE posting_no = 1", "debits_equal_credits was pass and is fail"),
    ("ledger.journals", "reference_id = 'other' WHERE posting_no = 1", "debits_equal_credits was pass and is fail"),
    ("ledger.ledger_entries", ONE_LEG, "debits_equal_credits was pass and is fail"),
    (
        "ledger.control_totals",
        "opening = opening + 1, closing = closing + 1 WHERE close_date = %(d)s AND liability_class <> 'customer'",
        "debits_equal_credits was pass and is fail",
    ),
    ("ledger.control_totals", "credits = credits + 1, debits = debits + 1 WHERE close_date = %(d)s", "is fail"),
    ("exchange.trades", "maker_fee = maker_fee + 0.000001 WHERE trade_id = 1", "fee_clearing_swept was pass and"),
    ("exchange.trades", "taker_id = maker_id, maker_id = taker_id WHERE trade_id = 1", "fee_clearing_swept"),
    ("exchange.trades", "posting_no = posting_no + 1000000 WHERE trade_id = 1", "debits_equal_credits"),
    ("ledger.fee_accruals", "amount = amount + 0.000001 WHERE close_date = %(d)s", "fee_clearing_swept was pass"),
    ("reserves.liability_trees", "total = total + 1e-8 WHERE asset = 'BTC'", "the trees of"),
    ("reserves.liability_trees", "root = reverse(root) WHERE asset = 'BTC'", "the trees of"),
    ("reserves.liability_trees", "height = height + 1 WHERE asset = 'BTC'", "the trees of"),
    ("close.user_balance_snapshots", "value = value + 1 WHERE asset = 'BTC'", "trees_equal_control_totals was pass"),
    ("close.user_balance_snapshots", "row_hash = sha256(row_hash) WHERE asset = 'BTC'", "trees_equal_control_totals"),
    ("close.user_balance_snapshots", "account = 'x' || account WHERE asset = 'BTC'", "trees_equal_control_totals"),
    ("close.days", "barrier_seq = barrier_seq + 1 WHERE close_date = %(d)s", "books of|the trees of|has no trees"),
    ("close.days", "policy_sha256 = reverse(policy_sha256) WHERE close_date = %(d)s", "books of|the trees|no trees"),
    ("close.days", "cutoff_at = cutoff_at + interval '1 s' WHERE close_date = %(d)s", "the trees of|has no trees"),
    ("recon.verdicts", "verdict = 'fail' WHERE gate = 'engine_vs_ledger'", "engine_vs_ledger is fail"),
    ("recon.verdicts", "verdict = 'unknown' WHERE gate = 'marks_fresh'", "marks_fresh is unknown"),
    ("recon.verdicts", "books_sha256 = reverse(books_sha256) WHERE gate = 'marks_fresh'", "marks_fresh is unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "statement", "named"), TAMPERING, ids=[f"{t}: {s[:40]}" for t, s, _ in TAMPERING])
def test_row_changed_behind_every_trigger_before_the_seal_is_refused_by_name(
    ready: BookUnderTest, table: str, statement: str, named: str
) -> None:
    with tampered(ready, table, statement) as (owner, context), pytest.raises(GateError, match=named):
        try_to_seal(owner, context)


def test_day_that_nobody_touched_seals_from_where_the_attempts_began(ready: BookUnderTest) -> None:
    day = ready.days[0]
    with ready.closing(day) as context, ready.admin() as owner, owner.transaction(force_rollback=True):
        try_to_seal(owner, context)
        assert owner.execute("SELECT state FROM close.days WHERE close_date = %s", (day,)).fetchone() == ("sealed",)


@pytest.mark.parametrize(
    ("table", "statement", "gate"),
    [
        ("ledger.ledger_entries", ONE_LEG, "debits_equal_credits"),
        ("ledger.control_totals", "debits = debits + 1, credits = credits + 1", "debits_equal_credits"),
        ("ledger.daily_balances", "balance = balance + 1 WHERE close_date = %(d)s", "debits_equal_credits"),
        ("ledger.daily_balances", "balance = balance + 1 WHERE close_date = %(d)s", "engine_vs_ledger"),
        ("exchange.trades", "taker_fee = taker_fee - 0.000001 WHERE trade_id = 1", "fee_clearing_swept"),
        ("exchange.engine_balances", "staked = 1e-18 WHERE close_date = %(d)s AND asset = 'ETH'", "engine_vs_ledger"),
        ("reserves.liability_trees", "total = total + 1e-8 WHERE asset = 'BTC'", "trees_equal_control_totals"),
        ("close.user_balance_snapshots", "value = 0 WHERE asset = 'BTC'", "trees_equal_control_totals"),
    ],
)  # fmt: skip
def test_gate_judged_over_a_changed_row_fails(ready: BookUnderTest, table: str, statement: str, gate: str) -> None:
    with tampered(ready, table, statement) as (owner, context):
        assert days.judge(owner, context.close_date, gate, context.epoch) == "fail"
        late = gate == "trees_equal_control_totals"
        found = days.read(owner, context.close_date)
        assert found is not None
        assert found.state == ("reconciled" if late else "cutoff")
        with pytest.raises(GateError):
            try_to_seal(owner, context)


def test_verdict_forged_by_the_owner_does_not_outlive_the_seals_own_look(ready: BookUnderTest) -> None:
    change = "staked = 1e-18 WHERE close_date = %(d)s AND asset = 'ETH'"
    with tampered(ready, "exchange.engine_balances", change) as (owner, context):
        owner.execute("SELECT ledger.write_control_totals(%s, %s)", (context.close_date, context.epoch))
        fixed = owner.execute("SELECT close.fix_books_hash(%s, %s)", (context.close_date, context.epoch)).fetchone()
        assert fixed is not None
        owner.execute("UPDATE recon.verdicts SET books_sha256 = %s", fixed)
        owner.execute("UPDATE reserves.liability_trees SET books_sha256 = %s", fixed)
        owner.execute("UPDATE close.days SET state = 'reconciled' WHERE close_date = %s", (context.close_date,))
        insert = (
            "INSERT INTO close.seals (close_date, version, kind, books_sha256, manifest, signature, key_id,"
            " snapshot_root, log_index, checkpoint)"
            " VALUES (%s, 1, 'day', %s, '{}', repeat('0', 128), repeat('0', 16), repeat('0', 64), 0, '')"
        )
        with pytest.raises(psycopg.Error, match="engine_vs_ledger was pass and is fail"):
            owner.execute(insert.encode(), (context.close_date, *fixed))


def test_legs_added_to_a_journal_in_its_own_transaction_fail_its_hash(book: BookUnderTest) -> None:
    day = book.days[0]
    with book.app() as app, app.transaction():
        app.execute(
            "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, engine_seq, effective_at,"
            " close_date, origin, actor, reason, row_hash) SELECT ledger.reserve_postings(1), 'deposit', 'x', 'x', 5,"
            " now(), %s, 'engine', 'x', 'x', sha256('x')",
            (day,),
        )
        app.execute(
            "INSERT INTO ledger.ledger_entries SELECT j.posting_no, j.close_date, a.account_id, 'USDT', x.amount"
            " FROM ledger.journals j, (VALUES ('custody:main', -1), ('deposits_unallocated', 1)) x (name, amount),"
            " ledger.ensure_accounts(ARRAY[x.name], ARRAY['USDT']) a WHERE j.reference_type = 'x'"
        )
    last = book.close(day)[-1]
    assert (last.step, last.status) == ("control_totals", "failed")
    assert last.metadata["verdicts"]["debits_equal_credits"] == "fail"


@pytest.mark.parametrize("what", ["journal without legs", "trade without journal"])
def test_half_an_event_written_by_the_application_fails_the_day(book: BookUnderTest, what: str) -> None:
    day = book.days[0]
    columns = (
        "engine_seq, fill_index, close_date, sequenced_at, effective_at, market, price, quantity, quote_quantity,"
        " taker_side, maker_id, taker_id, maker_order_id, taker_order_id, maker_fee, taker_fee, maker_rate_ppm,"
        " taker_rate_ppm"
    )
    statements = {
        "journal without legs": "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id,"
        " engine_seq, effective_at, close_date, origin, actor, reason, row_hash)"
        " SELECT ledger.reserve_postings(1), 'deposit', 'x',"
        " 'x', 5, now(), %(d)s, 'engine', 'x', 'x', sha256('x')",
        "trade without journal": f"INSERT INTO exchange.trades (trade_id, posting_no, {columns})"
        f" SELECT 999999, 999999, {columns} FROM exchange.trades WHERE close_date = %(d)s LIMIT 1",
    }
    with book.app() as app:
        app.execute(statements[what].encode(), {"d": day})
    # The trade's fee was never charged: sweeping it leaves clearing short, which the same step sees.
    last = book.close(day)[-1]
    assert (last.step, last.status) == ("control_totals", "failed")
    assert last.metadata["verdicts"]["debits_equal_credits"] == "fail"


def test_next_day_closed_again_when_the_day_it_rolls_forward_from_changed(book: BookUnderTest) -> None:
    first, second = book.days
    run_to(book, first, BEFORE_SEAL[-1].name)
    run_to(book, second, "engine_vs_ledger")
    assert (state(book, first), state(book, second)) == ("reconciled", "reconciled")
    # House money moves on the first day, under its epoch, after the second was reconciled over it.
    with book.closing(first) as context, book.admin() as owner, owner.transaction():
        owner.execute("SELECT close.void_books_hash(%s, %s)", (first, context.epoch))
        owner.execute(
            "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date,"
            " origin, epoch, actor, reason, row_hash) SELECT ledger.reserve_postings(1), 'pot_funding', 'pot', 'p1',"
            " '2026-03-02T23:00:00Z', %s, 'close', %s, 'x', 'x',"
            " sha256(E'pot_funding\\tpot\\tp1\\t\\t2026-03-02T23:00:00.000000Z\\tclose"
            "\\tinsurance_fund\\tUSDT\\t1000000\\trevenue_router\\tUSDT\\t-1000000\\n'::bytea)",
            (first, context.epoch),
        )
        owner.execute(
            "INSERT INTO ledger.ledger_entries SELECT j.posting_no, j.close_date, a.account_id, 'USDT', x.amount"
            " FROM ledger.journals j, (VALUES ('revenue_router', -1), ('insurance_fund', 1)) x (name, amount),"
            " ledger.ensure_accounts(ARRAY[x.name], ARRAY['USDT']) a WHERE j.reference_type = 'pot'"
        )
    assert book.close(first)[-1].status == "succeeded"
    again = {r.step: r for r in book.close(second)}
    assert not again["control_totals"].unchanged
    assert state(book, second) == "sealed"
    assert book.value(
        "SELECT b.balance FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)"
        " WHERE b.close_date = %s AND a.account = 'insurance_fund'", second
    ) == 1  # fmt: skip


@pytest.mark.parametrize("change", ["at = at - interval '2 days'", "at = at + interval '2 days'"])
def test_mark_outside_its_age_makes_the_gate_unknown(ready: BookUnderTest, change: str) -> None:
    with tampered(ready, "market.mark_prices", f"{change} WHERE asset = 'SHIB'") as (owner, context):
        assert days.judge(owner, context.close_date, "marks_fresh", context.epoch) == "unknown"


@pytest.mark.parametrize(
    ("table", "gate"),
    [
        ("market.mark_prices", "marks_fresh"),
        ("exchange.engine_balances", "engine_vs_ledger"),
        ("ledger.control_totals", "debits_equal_credits"),
        ("reserves.liability_trees", "trees_equal_control_totals"),
    ],
)
def test_gate_whose_rows_are_missing_is_unknown_and_does_not_seal(ready: BookUnderTest, table: str, gate: str) -> None:
    with (
        ready.closing(ready.days[0]) as context,
        one_snapshot(ready.admin()) as owner,
        owner.transaction(force_rollback=True),
    ):
        owner.execute(f"DELETE FROM {table} WHERE close_date = %s".encode(), (context.close_date,))
        assert days.judge(owner, context.close_date, gate, context.epoch) == "unknown"
        with pytest.raises(GateError):
            try_to_seal(owner, context)
