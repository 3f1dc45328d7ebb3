"""What the application may not do beside the seal, by raw SQL: write verdicts, move days, shadow names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import psycopg
import pytest

from engine.store import days
from tests.fixtures.books import BookUnderTest
from tests.fixtures.seals import attempt, refused


@pytest.fixture
def app(ready: BookUnderTest) -> Iterator[psycopg.Connection]:
    with ready.app() as connection:
        yield connection


FORBIDDEN = (
    "INSERT INTO recon.verdicts (close_date, version, books_sha256, gate, verdict, detail)"
    " SELECT close_date, version, books_sha256, 'engine_vs_ledger', 'pass', '{}' FROM close.days",
    "UPDATE recon.verdicts SET verdict = 'pass'",
    "DELETE FROM recon.verdicts",
    "INSERT INTO recon.waivers (gate, scope, close_date, asset, amount_cap, reason, maker, checker, expires_at)"
    " VALUES ('engine_vs_ledger', 'book', '2026-03-02', 'ETH', 1e9, 'x', 'a', 'b', 'infinity')",
    "INSERT INTO recon.tolerances (gate, asset, approver, expires_at)"
    " VALUES ('engine_vs_ledger', 'ETH', 'a', 'infinity')",
    "UPDATE recon.breaks SET state = 'closed'",
    "DELETE FROM recon.breaks",
    "INSERT INTO recon.breaks (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual,"
    " difference) VALUES ('x', 'x', 'x', now(), now(), 1, '', 0, 1, 1)",
    "SELECT recon.close_break(1, 'a', 'b', 'x')",
    "SELECT recon.write_engine_breaks('2026-03-02', 1, '')",
    "UPDATE accounts.holds SET released_by = 'me', released_at = now()",
    "DELETE FROM accounts.holds",
    "UPDATE close.days SET state = 'sealed'",
    "UPDATE close.days SET books_sha256 = NULL",
    "INSERT INTO close.days (close_date) VALUES ('2026-03-09')",
    "DELETE FROM close.days",
    "UPDATE close.leases SET epoch = 1000",
    "INSERT INTO close.leases VALUES ('2026-03-02', 'me', 1, 'infinity')",
    "INSERT INTO close.policies SELECT '2020-01-01', policy, policy_sha256, 'me', 'x' FROM close.policies",
    "UPDATE close.book SET first_day = '2020-01-01'",
    "UPDATE market.mark_prices SET price = price * 2",
    "DELETE FROM market.mark_prices",
    "UPDATE exchange.engine_balances SET available = 0",
    "DELETE FROM exchange.engine_balances",
    "INSERT INTO exchange.engine_balances SELECT * FROM exchange.engine_balances"
    " ON CONFLICT (close_date, version, account, asset) DO UPDATE SET available = 0",
    "MERGE INTO market.mark_prices m USING market.mark_prices n ON m.asset = n.asset WHEN MATCHED THEN DELETE",
    "INSERT INTO ledger.control_totals VALUES ('2026-03-02', 1, 'ETH', 'customer', 0, 0, 0, 0, 0)",
    "INSERT INTO close.user_balance_snapshots SELECT * FROM close.user_balance_snapshots",
    "UPDATE close.user_balance_snapshots SET value = 0",
    "UPDATE reserves.liability_trees SET root = repeat('0', 64)",
    "DELETE FROM reserves.liability_trees",
    "UPDATE close.seals SET manifest = '{}'",
    "DELETE FROM close.seals",
    "TRUNCATE close.seals CASCADE",
    "DELETE FROM close.eod_runs",
    "DELETE FROM events.outbox",
    "UPDATE events.outbox SET payload = '{}'",
    "SET session_replication_role = replica",
    "SET LOCAL session_replication_role = replica",
    "ALTER TABLE close.seals DISABLE TRIGGER ALL",
    "ALTER TABLE close.seals DISABLE TRIGGER guard",
    "DROP TRIGGER guard ON close.seals",
    "ALTER TABLE close.days ADD COLUMN x int",
    "DROP TABLE close.seals CASCADE",
    "CREATE OR REPLACE FUNCTION recon.gate(d date, v integer, g text) RETURNS recon.judgement"
    " LANGUAGE sql AS 'SELECT NULL'",
    "INSERT INTO recon.known_gates VALUES ('marks_fresher', false)",
    "UPDATE recon.known_gates SET late = true",
    "DELETE FROM recon.known_gates WHERE gate = 'marks_fresh'",
    "ALTER FUNCTION recon.judge(date, text, bigint) SET search_path = public",
    "ALTER TABLE close.seals OWNER TO compline_app",
    "SET ROLE compline_admin",
    "SET SESSION AUTHORIZATION compline_admin",
    "CREATE TEMP TABLE days (close_date date)",
    "CREATE TABLE public.days (close_date date)",
    "CREATE VIEW public.days AS SELECT 1",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
    "CREATE FUNCTION public.sum(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT 0::numeric'",
    "CREATE OPERATOR public.<> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = numeric_eq)",
    "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION close.append_only()",
    "CREATE RULE r AS ON INSERT TO close.seals DO INSTEAD NOTHING",
    "CREATE POLICY p ON close.days",
    "COPY close.days TO PROGRAM 'cat'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user",
    "LOCK TABLE close.days IN ACCESS EXCLUSIVE MODE",
)


@pytest.mark.parametrize("statement", FORBIDDEN, ids=[s[:60] for s in FORBIDDEN])
def test_application_is_refused(ready: BookUnderTest, statement: str) -> None:
    with ready.app() as app, app.transaction(force_rollback=True):
        if statement.startswith("SELECT pg_terminate"):
            with ready.admin(), refused("42501"):
                app.execute(statement.encode())
        else:
            with refused("42501"):
                app.execute(statement.encode())


def test_captures_cannot_be_added_once_the_books_hash_is_fixed(app: psycopg.Connection, ready: BookUnderTest) -> None:
    day = ready.days[0]
    for statement in (
        "INSERT INTO exchange.engine_balances VALUES (%s, 1, 'u-9999', 'ETH', 5, 0, 0, 0)",
        "INSERT INTO exchange.engine_balances VALUES (%s, 2, 'u-9999', 'ETH', 5, 0, 0, 0)",
        "INSERT INTO market.mark_prices SELECT %s, 2, asset, price, source, at FROM market.mark_prices LIMIT 1",
        "INSERT INTO ledger.fee_accruals VALUES (%s, 1, 999, 'ETH', 'maker', 5, 1)",
    ):
        with refused("CL009", match="books hash is"):
            app.execute(statement.encode(), (day,))
        with refused("CL009", match="unknown"):
            app.execute(statement.encode(), (date(2031, 1, 1),))


def test_tree_for_another_hash_or_day_is_refused(app: psycopg.Connection, ready: BookUnderTest) -> None:
    columns = "asset, books_sha256, log_seq, ctx, height, root, total, accounts"
    for day, hash_ in ((ready.days[0], "repeat('0', 64)"), (date(2031, 1, 1), "books_sha256")):
        with refused("CL009", match="no tree is built"):
            app.execute(
                (
                    f"INSERT INTO reserves.liability_trees (close_date, version, {columns}) SELECT %s, 1, "
                    f"{columns.replace('books_sha256', hash_)} FROM reserves.liability_trees LIMIT 1"
                ).encode(),
                (day,),
            )


@pytest.mark.parametrize(
    "call",
    [
        "recon.judge(%(d)s, 'engine_vs_ledger', %(e)s)",
        "close.void_books_hash(%(d)s, %(e)s)",
        "close.replace_engine_balances(%(d)s, %(e)s)",
        "close.replace_mark_prices(%(d)s, %(e)s)",
        "close.fix_books_hash(%(d)s, %(e)s)",
        "close.write_user_balance_snapshots(%(d)s, %(e)s)",
        "ledger.write_control_totals(%(d)s, %(e)s)",
        "ledger.replace_fee_accruals(%(d)s, %(e)s)",
        "reserves.replace_liability_trees(%(d)s, %(e)s)",
        "close.fence(%(d)s, %(e)s)",
    ],
)
def test_nothing_moves_a_day_under_a_made_up_or_past_epoch(ready: BookUnderTest, call: str) -> None:
    day = ready.days[0]
    with ready.closing(day) as context, ready.app() as app:
        for epoch in (0, context.epoch - 1, context.epoch + 1, 10**12, None):
            with refused("CL006", match="no longer holds the lease"):
                app.execute(f"SELECT {call}".encode(), {"d": day, "e": epoch})
        held = context.epoch
    with ready.app() as app, refused("CL006"):
        app.execute(f"SELECT {call}".encode(), {"d": day, "e": held})


@pytest.mark.parametrize(
    "call",
    [
        "recon.judge(%(d)s, 'engine_vs_ledger', %(e)s)",
        "close.void_books_hash(%(d)s, %(e)s)",
        "close.replace_engine_balances(%(d)s, %(e)s)",
        "close.replace_mark_prices(%(d)s, %(e)s)",
        "close.fix_books_hash(%(d)s, %(e)s)",
        "close.write_user_balance_snapshots(%(d)s, %(e)s)",
        "ledger.write_control_totals(%(d)s, %(e)s)",
        "ledger.replace_fee_accruals(%(d)s, %(e)s)",
        "reserves.replace_liability_trees(%(d)s, %(e)s)",
        "close.cut_off_day(%(d)s, %(e)s, 1, now())",
    ],
)
def test_nothing_moves_a_sealed_day_under_the_right_epoch_either(sealed_book: BookUnderTest, call: str) -> None:
    day = sealed_book.days[0]
    with sealed_book.closing(day) as context, sealed_book.app() as app, pytest.raises(psycopg.Error) as caught:
        app.execute(f"SELECT {call}".encode(), {"d": day, "e": context.epoch})
    assert caught.value.sqlstate in ("CL002", "CL008", "CL009")


def test_gate_that_is_none_is_not_judged(ready: BookUnderTest) -> None:
    with attempt(ready, ready.days[0]) as found, refused("CL007", match="there is no gate made_up"):
        found.app.execute("SELECT recon.judge(%s, 'made_up', %s)", (ready.days[0], found.context.epoch))


def test_search_path_of_the_caller_changes_no_verdict(ready: BookUnderTest) -> None:
    with attempt(ready, ready.days[0], snapshot=True) as found:
        for path in ("pg_temp, finance, public", "''", "finance, pg_catalog"):
            found.app.execute(f"SET LOCAL search_path = {path}".encode())
            for gate in ("debits_equal_credits", "engine_vs_ledger", "fee_clearing_swept", "marks_fresh"):
                assert days.judge(found.app, ready.days[0], gate, found.context.epoch) == "pass"
        found.put(found.seal())


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("UPDATE close.eod_runs SET output_digest = 'x' WHERE step_name = 'cutoff'", "CL002"),
        ("UPDATE close.eod_runs SET status = 'failed' WHERE step_name = 'seals'", "CL002"),
        ("UPDATE close.eod_runs SET step_name = 'finance' WHERE step_name = 'cutoff'", "CL003"),
        ("UPDATE close.eod_runs SET close_date = '2031-01-01' WHERE step_name = 'engine_vs_ledger'", "CL003"),
        ("UPDATE close.eod_runs SET version = 2 WHERE step_name = 'evidence_packs'", "CL003"),
        (
            "INSERT INTO close.eod_runs SELECT close_date, 'made_up', version, attempt, epoch, status, input_digest,"
            " output_digest, row_count, metadata, error, run_id, started_at, finished_at FROM close.eod_runs LIMIT 1",
            "CL002",
        ),
    ],
)
def test_runs_of_a_sealed_day_stay_as_they_are(sealed_book: BookUnderTest, statement: str, state: str) -> None:
    with sealed_book.app() as app, refused(state):
        app.execute(statement.encode())


def test_what_follows_the_seal_may_be_recorded_again(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as app, app.transaction(force_rollback=True):
        done = app.execute("UPDATE close.eod_runs SET attempt = attempt + 1 WHERE step_name = 'evidence_packs'")
        assert done.rowcount == 2


def test_day_keeps_the_policy_that_it_was_cut_off_under(ready: BookUnderTest) -> None:
    copy = (
        "INSERT INTO close.policies (effective_from, policy, policy_sha256, actor, reason)"
        " SELECT %s, policy, policy_sha256, 'x', 'x' FROM close.policies"
    )
    with ready.admin() as owner:
        for day in ready.days:
            with refused("CL014", match="no policy can come into force"):
                owner.execute(copy.encode(), (day,))
        with owner.transaction(force_rollback=True):
            owner.execute(copy.encode(), (ready.days[1] + timedelta(days=1),))
        with refused("23514", match="policies_base_gates"):
            owner.execute(
                "INSERT INTO close.policies (effective_from, policy, policy_sha256, actor, reason)"
                " VALUES ('2031-01-01', '{\"required_gates\": [\"marks_fresh\"]}', repeat('0', 64), 'x', 'x')"
            )
