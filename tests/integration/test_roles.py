"""What each role of the product may do in a book, and that none of them is bound by less than the guards."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pipelines.local.urls import ADMIN, APP, AUDITOR, COLLECTOR, DAGSTER, DBT, FINANCE
from tests.fixtures.books import BookUnderTest

PRODUCT = (APP, DBT, COLLECTOR, FINANCE, AUDITOR)
SCHEMAS = (
    "close",
    "ledger",
    "exchange",
    "market",
    "custody",
    "chain",
    "capture",
    "positions",
    "recon",
    "accounts",
    "reserves",
    "events",
    "finance",
)
WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")

INSERTS: dict[str, set[str]] = {
    APP: {
        "accounts.users",
        "close.eod_runs",
        "close.seals",
        "chain.staking_totals",
        "custody.transfers",
        "custody.unread",
        "custody.wallet_balances",
        "events.alert_deliveries",
        "events.alerts",
        "events.outbox",
        "exchange.assets",
        "exchange.engine_balances",
        "exchange.fee_tiers",
        "exchange.markets",
        "exchange.trades",
        "exchange.user_tiers",
        "ledger.fee_accruals",
        "ledger.journals",
        "ledger.ledger_entries",
        "market.index_constituents",
        "market.mark_prices",
        "market.mark_ticks",
        "recon.marker_balances",
        "reserves.liability_trees",
        "reserves.key_rotations",
        "reserves.log_entries",
    },
    COLLECTOR: {"capture.readings"},
}
UPDATED_COLUMNS: dict[str, set[str]] = {
    APP: {
        *(f"events.alert_deliveries.{name}" for name in ("attempts", "delivered_at", "last_error", "next_try_at")),
        "events.outbox.published_at",
        "events.outbox.watched_at",
        "ledger.settlement_cursor.at",
        "ledger.settlement_cursor.last_seq",
    },
}
READS: dict[str, set[str]] = {
    COLLECTOR: {"capture.readings"},
    FINANCE: set(),
    AUDITOR: {
        "close.seal_breaks",
        "close.seal_gates",
        "close.seals",
        "recon.verdicts",
        "recon.breaks",
        "recon.waivers",
        "reserves.liability_trees",
        "reserves.attestations",
        "reserves.key_rotations",
        "reserves.log_entries",
    },
}
NOT_READ: dict[str, set[str]] = {DBT: {"accounts.", "capture.", "custody.", "chain.", "reserves.", "events."}}
PERSONAL = {"accounts.identities", "accounts.addresses"}
"""Who users are: no role reads these tables; the closer gets names to compare from one function."""
NEW_TABLES = ("positions.", "accounts.")
"""Subjects whose issues bring tables of their own: the rules hold for them, the exact lists are theirs."""


@pytest.fixture(scope="module")
def owner(sealed_book: BookUnderTest) -> Iterator[psycopg.Connection]:
    with sealed_book.admin() as connection:
        yield connection


def tables(owner: psycopg.Connection) -> list[str]:
    rows = owner.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
        (list(SCHEMAS),),
    )
    return sorted(str(row[0]) for row in rows)


def may(owner: psycopg.Connection, role: str, privilege: str) -> set[str]:
    return {
        table
        for table in tables(owner)
        if owner.execute("SELECT has_table_privilege(%s, %s, %s)", (role, table, privilege)).fetchone() == (True,)
    }


def listed(found: set[str]) -> set[str]:
    return {table for table in found if not table.startswith(NEW_TABLES) or table == "accounts.users"}


@pytest.mark.parametrize("role", PRODUCT)
def test_role_inserts_into_these_tables_and_no_other(owner: psycopg.Connection, role: str) -> None:
    assert listed(may(owner, role, "INSERT")) == INSERTS.get(role, set())


@pytest.mark.parametrize("role", PRODUCT)
def test_role_updates_these_columns_and_no_other(owner: psycopg.Connection, role: str) -> None:
    rows = owner.execute(
        "SELECT n.nspname || '.' || c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p')"
        " AND a.attnum > 0 AND NOT a.attisdropped AND has_column_privilege(%s, c.oid, a.attnum, 'UPDATE')",
        (list(SCHEMAS), role),
    ).fetchall()
    found = {f"{table}.{column}" for table, column in rows if table != "close.eod_runs"}
    assert found == UPDATED_COLUMNS.get(role, set())
    assert ("close.eod_runs" in {table for table, _ in rows}) is (role == APP)


@pytest.mark.parametrize("role", PRODUCT)
@pytest.mark.parametrize("privilege", ["DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"])
def test_no_role_deletes_empties_refers_to_hooks_or_maintains_a_table(
    owner: psycopg.Connection, role: str, privilege: str
) -> None:
    assert may(owner, role, privilege) == set()


@pytest.mark.parametrize("role", PRODUCT)
def test_no_role_touches_a_partition_but_the_application_adds_legs_to_a_days(
    owner: psycopg.Connection, role: str
) -> None:
    partitions = owner.execute(
        "SELECT c.oid::regclass::text, i.inhparent::regclass::text FROM pg_class c JOIN pg_inherits i"
        " ON i.inhrelid = c.oid WHERE c.relispartition AND c.relkind = 'r'"
    ).fetchall()
    assert len(partitions) >= 3
    for partition, parent in partitions:
        for privilege in ("SELECT", *WRITES):
            held = owner.execute("SELECT has_table_privilege(%s, %s, %s)", (role, partition, privilege)).fetchone()
            adds = (role, parent, privilege) == (APP, "ledger.ledger_entries", "INSERT")
            assert held == (adds,), (partition, privilege)


@pytest.mark.parametrize("role", sorted(READS))
def test_role_reads_these_tables_and_no_other(owner: psycopg.Connection, role: str) -> None:
    assert may(owner, role, "SELECT") == READS[role]


def test_application_reads_every_table_and_dbt_those_of_the_books_alone(owner: psycopg.Connection) -> None:
    everything = {table for table in tables(owner) if not table.startswith("finance.") and table not in PERSONAL}
    assert may(owner, APP, "SELECT") == everything
    for prefix in NOT_READ[DBT]:
        assert not {table for table in may(owner, DBT, "SELECT") if table.startswith(prefix)}
    for column, held in (("account", True), ("state", True), ("created_at", False)):
        row = owner.execute("SELECT has_column_privilege(%s, 'accounts.users', %s, 'SELECT')", (DBT, column)).fetchone()
        assert row == (held,)


@pytest.mark.parametrize("role", PRODUCT)
def test_role_creates_nothing_outside_finance(owner: psycopg.Connection, role: str) -> None:
    for schema in (*SCHEMAS, "public"):
        held = owner.execute("SELECT has_schema_privilege(%s, %s, 'CREATE')", (role, schema)).fetchone()
        assert held == ((role, schema) == (DBT, "finance"),)
    for privilege, who in (("CREATE", ()), ("TEMPORARY", (DBT,)), ("CONNECT", PRODUCT)):
        held = owner.execute("SELECT has_database_privilege(%s, current_database(), %s)", (role, privilege)).fetchone()
        assert held == (role in who,), privilege


@pytest.mark.parametrize("role", [*PRODUCT, DAGSTER])
def test_role_is_neither_superuser_nor_owner_nor_able_to_become_one(owner: psycopg.Connection, role: str) -> None:
    powers = owner.execute(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = %s",
        (role,),
    ).fetchone()
    assert powers == (False,) * 5
    above = owner.execute(
        "SELECT rolname FROM pg_roles WHERE rolname <> %(r)s AND pg_has_role(%(r)s, oid, 'MEMBER')", {"r": role}
    ).fetchall()
    assert above == []
    owned = owner.execute(
        "SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        "        WHERE relowner = r.oid AND nspname <> 'finance' AND nspname !~ '^pg_toast'),"
        " (SELECT count(*) FROM pg_proc WHERE proowner = r.oid),"
        " (SELECT count(*) FROM pg_namespace WHERE nspowner = r.oid),"
        " (SELECT count(*) FROM pg_database WHERE datdba = r.oid AND datname = current_database())"
        " FROM pg_roles r WHERE rolname = %s",
        (role,),
    ).fetchone()
    assert owned == (0, 0, 0, 0)


def test_owner_itself_is_no_superuser_so_that_no_guard_is_off_by_default(
    owner: psycopg.Connection, sealed_book: BookUnderTest
) -> None:
    if not sealed_book.opened.servers.embedded_postgres:
        pytest.skip("DATABASE_ADMIN_URL names a login of the operator's choice")
    row = owner.execute("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = %s", (ADMIN,)).fetchone()
    assert row == (False, False)


FUNCTIONS_OF_NOBODY = (
    "recon.close_break(bigint, text, text, text)",
    "recon.write_engine_breaks(date, integer, text)",
    "recon.waiver_for(date, text, text)",
    "recon.marker_differences()",
    "recon.tell_marker(recon.markers, text)",
    "ledger.ensure_partition(date)",
    "ledger.guard_adjustment()",
    "accounts.set_adjustment_cap(text, numeric, integer, numeric, timestamptz, text, text, text)",
    "accounts.add_adjustment_revision(bigint, integer, bigint, text, numeric, text, text, text, text)",
    "accounts.put_adjustment_event(text, accounts.adjustment_revisions, jsonb)",
    "accounts.open_adjustment(bigint)",
    "exchange.request_command(text, text, jsonb)",
)


@pytest.mark.parametrize("function", FUNCTIONS_OF_NOBODY)
def test_function_that_two_people_or_another_function_must_call_is_the_owners_alone(
    owner: psycopg.Connection, function: str
) -> None:
    for role in PRODUCT:
        row = owner.execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", (role, function)).fetchone()
        assert row == (False,), role


@pytest.mark.parametrize("role", [DBT, COLLECTOR, FINANCE, AUDITOR])
def test_role_that_only_reads_or_collects_calls_no_function_of_the_close(owner: psycopg.Connection, role: str) -> None:
    rows = owner.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = ANY(%s) AND p.prosecdef AND has_function_privilege(%s, p.oid, 'EXECUTE')",
        (list(SCHEMAS), role),
    ).fetchall()
    assert rows == []


def test_collector_stores_a_reading_once_and_changes_none(sealed_book: BookUnderTest) -> None:
    with (
        psycopg.connect(sealed_book.opened.servers.collector.dsn(), autocommit=True) as collector,
        collector.transaction(force_rollback=True),
    ):
        insert = (
            "INSERT INTO capture.readings (source, subject, at, raw) VALUES ('custodian', 'main', '2026-03-02', %s)"
        )
        collector.execute(insert.encode(), (b"1",))
        collector.execute("SAVEPOINT one")
        for statement in (
            "UPDATE capture.readings SET raw = ''",
            "DELETE FROM capture.readings",
            "SELECT * FROM close.days",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                collector.execute(statement.encode())
            collector.execute("ROLLBACK TO one")
        with pytest.raises(psycopg.errors.UniqueViolation):
            collector.execute(insert.encode(), (b"2",))
