"""The schema's conventions: exact amounts, comments, functions that nothing can shadow, digests as documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine.canonical import row_hash, table_digest
from engine.clock import iso_us
from engine.money import text_of, to_units
from tests.fixtures.books import BookUnderTest

OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'public') AND n.nspname !~ '^pg_'"
COUNTS = {
    ("exchange.markets", "base_units_per_lot"),
    ("exchange.markets", "quote_units_per_tick_lot"),
    ("ledger.rewards_pots", "stake_unit_us"),
    ("positions.staking_positions", "stake_unit_us"),
}
"""Whole numbers of smallest units beyond bigint: no amounts."""


@pytest.fixture(scope="module")
def owner(sealed_book: BookUnderTest) -> Iterator[psycopg.Connection]:
    with sealed_book.admin() as connection:
        yield connection


def columns(owner: psycopg.Connection) -> list[tuple[str, str, str]]:
    rows = owner.execute(
        "SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE {OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'c') AND a.attnum > 0 AND NOT a.attisdropped".encode()
    ).fetchall()
    return [(str(table), str(column), str(kind)) for table, column, kind in rows]


def test_no_column_is_a_binary_floating_point_number(owner: psycopg.Connection) -> None:
    found = columns(owner)
    assert len(found) > 200
    assert [c for c in found if c[2].split("(")[0] in ("real", "double precision", "money")] == []


def test_every_amount_has_thirty_eight_digits_and_eighteen_decimals(owner: psycopg.Connection) -> None:
    other = {
        (table, column) for table, column, kind in columns(owner) if "numeric" in kind and kind != "numeric(38,18)"
    }
    assert other == COUNTS


def test_no_function_takes_or_gives_a_floating_point_number(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT p.oid::regprocedure::text, pg_get_function_result(p.oid) FROM pg_proc p"
        f" JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {OURS}".encode()
    ).fetchall()
    assert len(rows) > 30
    floating = re.compile(r"\b(real|double precision|float[48]?)\b")
    assert [r for r in rows if floating.search(f"{r[0]} {r[1]}")] == []


def test_every_table_says_what_its_rows_are(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT c.oid::regclass::text, obj_description(c.oid, 'pg_class') FROM pg_class c"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS} AND n.nspname <> 'finance'"
        " AND c.relkind IN ('r', 'p') AND NOT c.relispartition".encode()
    ).fetchall()
    assert len(rows) > 25
    assert [table for table, comment in rows if not comment or not str(comment).endswith(".")] == []


def test_every_definer_function_fixes_its_search_path_and_is_not_everybodys(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT p.oid::regprocedure::text, p.proconfig, EXISTS (SELECT FROM aclexplode(coalesce(p.proacl,"
        " acldefault('f', p.proowner))) a WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE') FROM pg_proc p"
        f" JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {OURS} AND p.prosecdef".encode()
    ).fetchall()
    assert len(rows) > 25
    assert [f for f, settings, _ in rows if "search_path=pg_catalog, pg_temp" not in (settings or [])] == []
    assert [f for f, _, everybody in rows if everybody] == []


def test_no_function_of_ours_at_all_is_everybodys(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        f" WHERE {OURS} AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " WHERE a.grantee = 0)".encode()
    ).fetchall()
    assert rows == []


def test_every_trigger_is_on(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT tgname, tgrelid::regclass::text, tgenabled FROM pg_trigger WHERE NOT tgisinternal"
    ).fetchall()
    assert len(rows) > 15
    assert [r for r in rows if r[2] not in ("O", b"O")] == []


def test_every_partition_that_somebody_may_write_to_has_all_guards_of_its_parent(owner: psycopg.Connection) -> None:
    """Triggers of a parent do not fire for what is written to a partition itself."""
    rows = owner.execute(
        "SELECT i.inhrelid::regclass::text, i.inhparent::regclass::text, EXISTS (SELECT FROM pg_class c, aclexplode("
        "c.relacl) a WHERE c.oid = i.inhrelid AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT')"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'"
    ).fetchall()
    written = [(partition, parent) for partition, parent, open_to_others in rows if open_to_others]
    legs = [partition for partition, parent, _ in rows if parent == "ledger.ledger_entries"]
    assert sorted(partition for partition, _ in written) == sorted(legs)
    assert len(legs) >= 4
    assert len(guards_of(owner, "ledger.ledger_entries")) == 2
    for partition, parent in written:
        assert guards_of(owner, partition) == guards_of(owner, parent), partition


def guards_of(owner: psycopg.Connection, table: str) -> list[tuple[Any, ...]]:
    """What of a table's triggers decides whether and what they refuse."""
    return owner.execute(
        "SELECT tgname, tgfoid::regprocedure::text, tgtype, tgenabled, tgoldtable, tgnewtable, tgattr::text, tgnargs,"
        " pg_get_expr(tgqual, tgrelid) FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY 1",
        (table,),
    ).fetchall()


def test_scale_of_an_asset_is_ten_to_its_decimals_exactly(owner: psycopg.Connection) -> None:
    with owner.transaction(force_rollback=True):
        for places in range(19):
            owner.execute("INSERT INTO exchange.assets VALUES (%s, %s, %s)", (f"T{places}", 1000 + places, places))
        rows = owner.execute("SELECT decimals, scale FROM exchange.assets WHERE engine_id >= 1000").fetchall()
        assert {(places, scale) for places, scale in rows} == {(n, Decimal(10) ** n) for n in range(19)}
        with pytest.raises(psycopg.errors.CheckViolation):
            owner.execute("INSERT INTO exchange.assets VALUES ('T19', 1019, 19)")


# The books hash, table by table, in plain Python from rows.


def rows_of(owner: psycopg.Connection, query: str, day: object) -> list[tuple[Any, ...]]:
    return owner.execute(query.encode(), (day,)).fetchall()


def journals(owner: psycopg.Connection, day: object) -> list[bytes]:
    legs: dict[int, list[tuple[str, str, int]]] = {}
    for number, account, asset, amount, places in rows_of(
        owner,
        "SELECT e.posting_no, a.account, e.asset, e.amount, s.decimals FROM ledger.ledger_entries e"
        " JOIN ledger.accounts a USING (account_id) JOIN exchange.assets s ON s.asset = e.asset"
        " WHERE e.close_date = %s",
        day,
    ):
        legs.setdefault(number, []).append((account, asset, to_units(amount, places, record="leg")))
    hashes = []
    for number, kind, reference_type, reference_id, seq, at, origin in rows_of(
        owner,
        "SELECT posting_no, kind, reference_type, reference_id, engine_seq, effective_at, origin FROM ledger.journals"
        " WHERE close_date = %s",
        day,
    ):
        texts = sorted(f"{account}\t{asset}\t{units}" for account, asset, units in legs[number])
        fields = [part for text in texts for part in text.split("\t")]
        hashes.append(row_hash((kind, reference_type, reference_id, seq, iso_us(at), origin, *fields)))
    return hashes


def balances(owner: psycopg.Connection, day: object) -> list[bytes]:
    query = (
        "SELECT a.account, a.asset, b.balance, s.decimals FROM ledger.daily_balances b JOIN ledger.accounts a"
        " USING (account_id) JOIN exchange.assets s ON s.asset = a.asset WHERE b.close_date = %s"
    )
    return [row_hash((a, c, to_units(amount, n, record=a))) for a, c, amount, n in rows_of(owner, query, day)]


def marks(owner: psycopg.Connection, day: object) -> list[bytes]:
    query = "SELECT asset, price, source, at FROM market.mark_prices WHERE close_date = %s"
    return [
        row_hash((asset, text_of(price), source, iso_us(at))) for asset, price, source, at in rows_of(owner, query, day)
    ]


def readings(owner: psycopg.Connection, day: object) -> list[bytes]:
    return []


def engine_balances(owner: psycopg.Connection, day: object) -> list[bytes]:
    query = (
        "SELECT account, asset, decimals, available, locked, staked, in_transit FROM exchange.engine_balances"
        " JOIN exchange.assets USING (asset) WHERE close_date = %s"
    )
    return [
        row_hash((account, asset, *(to_units(x, places, record=account) for x in held)))
        for account, asset, places, *held in rows_of(owner, query, day)
    ]


@pytest.mark.parametrize("table", [journals, balances, marks, readings, engine_balances], ids=lambda t: t.__name__)
def test_digest_of_a_table_is_the_one_that_python_makes_from_its_rows(
    owner: psycopg.Connection, sealed_book: BookUnderTest, table: Any
) -> None:
    for day in sealed_book.days:
        hashes = table(owner, day)
        assert len(set(hashes)) == len(hashes)
        assert len(hashes) > 5 or table is readings
        said = owner.execute(f"SELECT {table.__name__} FROM close.books_digests(%s)".encode(), (day,)).fetchone()
        assert said == (table_digest(hashes),)


def test_digest_of_readings_is_over_source_subject_time_and_hash(
    owner: psycopg.Connection, sealed_book: BookUnderTest
) -> None:
    day = sealed_book.days[0]
    with owner.transaction(force_rollback=True):
        made = owner.execute(
            "INSERT INTO capture.readings (source, subject, at, raw)"
            " VALUES ('custodian', 'main', '2026-03-02T12:00Z', '{}') RETURNING reading_id, source, subject, at, sha256"
        ).fetchone()
        assert made is not None
        owner.execute("ALTER TABLE custody.wallet_balances DISABLE TRIGGER USER")
        owner.execute("INSERT INTO custody.wallet_balances VALUES (%s, 1, 'main', 'BTC', 1, %s)", (day, made[0]))
        said = owner.execute("SELECT readings FROM close.books_digests(%s)", (day,)).fetchone()
    assert said == (table_digest([row_hash((made[1], made[2], iso_us(made[3]), made[4]))]),)
