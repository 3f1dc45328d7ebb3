"""A gate that bites: what does not hold, or could not be checked, does not seal, whichever way it is tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal

import psycopg
import pytest

from engine.close.policy import Policy
from engine.errors import GateError, UncheckedError
from engine.exchange import history
from engine.exchange.events import Trade
from engine.exchange.journal import journal_path
from engine.sim.demo import load_demo
from engine.steps import cutoff, seals
from engine.steps.context import StepContext, StepResult
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import days
from engine.store.connect import translate
from engine.store.settlement import Settler
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book, one_snapshot

DECIMALS = {"USDT": 6, "ETH": 18}
BEFORE_SEAL = [step.name for step in STEPS[: [s.name for s in STEPS].index("seals")]]


def run_to(book: BookUnderTest, day: date, last: str) -> list[StepResult]:
    """Run the steps of a day up to one, by name."""
    names = [step.name for step in STEPS]
    with book.closing(day) as context:
        return [run_step(step, context) for step in STEPS[: names.index(last) + 1]]


def state(book: BookUnderTest, day: date) -> object:
    return book.value("SELECT state FROM close.days WHERE close_date = %s", day)


def run_row(book: BookUnderTest, day: date, step: str) -> tuple[object, ...]:
    with book.admin() as connection:
        row = connection.execute(
            "SELECT status, coalesce(error, '') FROM close.eod_runs WHERE close_date = %s AND step_name = %s",
            (day, step),
        ).fetchone()
    assert row is not None
    return row


def seal_alone(book: BookUnderTest, day: date) -> None:
    with book.closing(day) as context:
        run_step(seals.STEP, context)


def richest(book: BookUnderTest, day: date, asset: str) -> str:
    return str(
        book.value(
            "SELECT account FROM exchange.engine_balances WHERE close_date = %s AND asset = %s AND account LIKE 'u-%%'"
            " AND available > 0 ORDER BY available DESC, account LIMIT 1",
            day,
            asset,
        )
    )


# One smallest unit.


@pytest.mark.parametrize("asset", DECIMALS)
def test_one_smallest_unit_stops_the_day_freezes_its_user_alone_and_a_recapture_seals_it(
    book: BookUnderTest, asset: str
) -> None:
    day, following = book.days
    unit = Decimal(1).scaleb(-DECIMALS[asset])
    run_to(book, day, "engine_balances")
    user = richest(book, day, asset)
    with book.admin() as owner:
        owner.execute(
            "UPDATE exchange.engine_balances SET available = available + %s"
            " WHERE close_date = %s AND account = %s AND asset = %s",
            (unit, day, user, asset),
        )

    for _ in range(2):
        last = book.close(day)[-1]
        assert (last.step, last.status) == ("engine_vs_ledger", "failed")
        (found,) = last.metadata["breaks"]
        assert (found["account"], found["asset"], Decimal(found["difference"])) == (user, asset, unit)
        assert Decimal(found["actual"]) - Decimal(found["expected"]) == unit
    assert state(book, day) == "cutoff"
    assert book.value("SELECT count(*) FROM recon.breaks") == 1
    with book.admin() as connection:
        held = connection.execute(
            "SELECT account, kind, released_at IS NULL FROM accounts.holds JOIN accounts.users USING (user_id)"
        ).fetchall()
    assert held == [(user, "break", True)]

    with pytest.raises(GateError, match=f"{day} is cutoff, not reconciled"):
        seal_alone(book, day)
    with pytest.raises(GateError, match=f"predecessor {day} is cutoff"):
        book.close(following)
    assert (state(book, day), state(book, following)) == ("cutoff", "open")
    assert book.value("SELECT count(*) FROM close.seals WHERE kind = 'day'") == 0
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.recon.failed'") == 1

    assert book.close(day, recapture=True)[-1].status == "succeeded"
    assert state(book, day) == "sealed"
    assert book.value("SELECT state || ' ' || reason_code FROM recon.breaks") == "corrected capture_re_read"
    assert book.close(following)[-1].status == "succeeded"

    # The hold is lifted by two people, not by the recapture.
    assert book.value("SELECT count(*) FROM accounts.holds WHERE released_at IS NULL") == 1
    with book.admin() as owner:
        number = book.value("SELECT break_id FROM recon.breaks")
        for who, second in (("ann", "ann"), ("ann", ""), ("", "bea")):
            with pytest.raises(psycopg.Error, match="two different people"):
                owner.execute("SELECT recon.close_break(%s, %s, %s, 'checked')", (number, who, second))
        owner.execute("SELECT recon.close_break(%s, 'ann', 'bea', 'checked')", (number,))
    assert book.value("SELECT released_by || ' and ' || released_second FROM accounts.holds") == "ann and bea"


def test_house_fees_off_by_one_unit_stop_the_day_and_freeze_nobody(book: BookUnderTest) -> None:
    day = book.days[0]
    run_to(book, day, "engine_balances")
    with book.admin() as owner:
        owner.execute(
            "UPDATE exchange.engine_balances SET available = available - 0.000001"
            " WHERE close_date = %s AND account = 'house:fees' AND asset = 'USDT'",
            (day,),
        )
    (found,) = book.close(day)[-1].metadata["breaks"]
    assert (found["account"], found["difference"]) == ("house:fees", "-0.000001")
    assert book.value("SELECT count(*) FROM accounts.holds") == 0


def test_user_missing_from_the_engine_and_one_that_the_ledger_does_not_know_are_breaks(book: BookUnderTest) -> None:
    day = book.days[0]
    run_to(book, day, "engine_balances")
    user = richest(book, day, "ETH")
    with book.admin() as owner:
        gone = owner.execute(
            "DELETE FROM exchange.engine_balances WHERE close_date = %s AND account = %s AND asset = 'ETH'"
            " RETURNING available + locked + staked + in_transit", (day, user)
        ).fetchone()  # fmt: skip
    with book.app() as app:
        app.execute("INSERT INTO exchange.engine_balances VALUES (%s, 1, 'ghost', 'ETH', 7)", (day,))
    assert gone is not None
    breaks = {b["account"]: Decimal(b["difference"]) for b in book.close(day)[-1].metadata["breaks"]}
    assert breaks == {user: -gone[0], "ghost": Decimal(7)}


def test_capture_changed_after_the_books_hash_is_refused_by_the_seal_and_recaptured(book: BookUnderTest) -> None:
    day = book.days[0]
    run_to(book, day, BEFORE_SEAL[-1])
    assert state(book, day) == "reconciled"
    user = richest(book, day, "ETH")
    with book.admin() as owner:
        owner.execute(
            "UPDATE exchange.engine_balances SET available = available + 1e-18"
            " WHERE close_date = %s AND account = %s AND asset = 'ETH'",
            (day, user),
        )
    for attempt in (lambda: seal_alone(book, day), lambda: book.close(day)):
        with pytest.raises(GateError, match=f"books of {day} are not those of hash"):
            attempt()
    assert state(book, day) == "reconciled"
    assert book.close(day, recapture=True)[-1].status == "succeeded"
    assert state(book, day) == "sealed"


def test_trade_that_settlement_lost_is_a_break_of_both_its_users(make_book: MakeBook) -> None:
    made = make_book(None)
    load_demo(made.opened.files.journal_dir, SMALL)
    with history.events_from(made.opened.files.journal_dir, 0) as stream:
        events = [event for group in stream for event in group]
        registry = stream.registry
    lost = next(e for e in reversed(events) if isinstance(e, Trade) and e.close_day == events[-1].close_day)  # type: ignore[union-attr]
    with made.app() as connection:
        Settler(registry).settle(connection, [e for e in events if e is not lost])
    made.close(made.days[0])
    last = made.close(made.days[1])[-1]
    assert (last.step, last.status) == ("engine_vs_ledger", "failed")
    names = {registry.accounts[n].name for n in (lost.maker_account, lost.taker_account)}
    assert {b["account"] for b in last.metadata["breaks"]} - {"house:fees"} == names


# Every table that a day consists of.


@pytest.fixture(scope="module")
def ready(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """A book whose first day needs only its seal; what is done to it is rolled back."""
    made = new_book(settings, SMALL, name="ready")
    run_to(made, made.days[0], BEFORE_SEAL[-1])
    yield made
    drop_book(made)


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
    run_to(book, first, BEFORE_SEAL[-1])
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


# What could not be checked.


def expect_unknown(book: BookUnderTest, day: date, step: str, match: str) -> None:
    with pytest.raises(UncheckedError, match=match):
        book.close(day)
    status, error = run_row(book, day, step)
    assert status == "unknown"
    assert str(error)
    assert state(book, day) != "sealed"
    with pytest.raises(GateError):
        seal_alone(book, day)


def test_stale_mark_is_unknown_and_named_never_zero(make_book: MakeBook) -> None:
    made = make_book(policy=Policy(reporting_currency="USDT", mark_max_age_s=1))
    expect_unknown(made, made.days[0], "mark_prices", r"no fresh mark for .*\(last trade 2026-03-02T")
    assert made.value("SELECT count(*) FROM market.mark_prices") == 0
    assert made.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.cutoff.failed'") == 1


def test_missing_mark_is_unknown_and_named_never_zero(make_book: MakeBook) -> None:
    made = make_book(policy=Policy(reporting_currency="BTC", mark_max_age_s=86_400))
    expect_unknown(made, made.days[0], "mark_prices", r"SHIB \(never traded against BTC\)")


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


def test_journal_that_cannot_be_reached_is_unknown_at_the_cut_off_and_at_the_capture(book: BookUnderTest) -> None:
    day, path = book.days[0], journal_path(book.opened.files.journal_dir)
    away = path.with_suffix(".away")
    path.rename(away)
    expect_unknown(book, day, "cutoff", "has no journal")
    away.rename(path)
    with book.closing(day) as context:
        run_step(cutoff.STEP, context)
    path.rename(away)
    expect_unknown(book, day, "engine_balances", "journal")
    away.rename(path)
    assert book.close(day)[-1].status == "succeeded"


def test_journal_with_a_flipped_bit_is_unknown(book: BookUnderTest) -> None:
    day, directory = book.days[0], book.opened.files.journal_dir
    for file in directory.rglob("*"):
        if file != journal_path(directory) and file.is_file():
            file.unlink()
    data = bytearray(journal_path(directory).read_bytes())
    data[len(data) // 4] ^= 1
    journal_path(directory).write_bytes(data)
    with pytest.raises(UncheckedError):
        book.close(day)
    assert state(book, day) in ("open", "cutoff")


def test_database_that_is_away_is_unknown(book: BookUnderTest) -> None:
    with book.closing(book.days[0]) as context:
        away = replace(context, url="postgresql://compline_app@127.0.0.1:1/none")
        with pytest.raises(UncheckedError, match="cannot be reached"):
            run_step(cutoff.STEP, away)


def test_day_that_was_never_cut_off_has_no_seal_trees_or_verdicts(book: BookUnderTest) -> None:
    day = book.days[0]
    with book.closing(day) as context:
        for step in STEPS[1:]:
            says = "not sealed" if step.after_seal else f"not cut off: step {step.name}"
            with pytest.raises(GateError, match=says):
                run_step(step, context)
    assert state(book, day) == "open"
    for table in ("close.seals", "recon.verdicts", "reserves.liability_trees", "exchange.engine_balances"):
        assert book.value(f"SELECT count(*) FROM {table}") == 0
