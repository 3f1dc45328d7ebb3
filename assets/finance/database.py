"""The book's database as dbt's login sees it: what stands in schema finance, and what a date's marts hold.

What belongs here: those queries. What does not: building marts (see `invoke`).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from assets.finance.project import SCHEMA, Mart
from engine.canonical import sha256_jcs
from engine.store.connect import connect


class FinanceDatabase(Protocol):
    """The `finance_db` resource: dbt's login on a book's database."""

    @property
    def host(self) -> str:
        """Server."""
        ...

    @property
    def port(self) -> int:
        """Its port."""
        ...

    @property
    def user(self) -> str:
        """Login, with the rights of compline_dbt."""
        ...

    @property
    def password(self) -> str:
        """Its password; secret."""
        ...

    @property
    def database(self) -> str:
        """The book's database."""
        ...

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Further connection parameters, such as sslmode, by libpq's names."""
        ...

    @property
    def home(self) -> Path:
        """The home; the prepared manifest is kept below it."""
        ...


def open_connection(database: FinanceDatabase) -> psycopg.Connection:
    """Connect as dbt does.

    Raises:
        UncheckedError: the server does not answer.
    """
    conninfo = make_conninfo(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password,
        dbname=database.database,
        **dict(database.options),
    )
    return connect(conninfo, autocommit=True, application="compline finance")


def columns_of_relations(connection: psycopg.Connection) -> dict[str, dict[str, str]]:
    """Every table and view of schema finance: name -> column -> type as SQL writes it."""
    rows = connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE n.nspname = %s AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped",
        (SCHEMA,),
    )
    found: dict[str, dict[str, str]] = {}
    for relation, column, kind in rows:
        found.setdefault(str(relation), {})[str(column)] = str(kind)
    return found


def mart_rows(connection: psycopg.Connection, mart: Mart, day: date) -> tuple[int, str]:
    """What a mart holds of a close date.

    Returns:
        How many rows, and a sum of their hashes that changes with any of them. It tells that a table was touched; the
        books are proven elsewhere.
    """
    row = connection.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} t WHERE close_date = %s"
        ).format(sql.Identifier(SCHEMA, mart.name)),
        (day,),
    ).fetchone()
    assert row is not None
    return int(row[0]), str(row[1])


def digest_of(held: dict[str, tuple[int, str]]) -> str:
    """Hex digest of what the marts hold of a date."""
    return sha256_jcs({name: list(value) for name, value in held.items()})


def end_sessions(database: FinanceDatabase, application: str) -> None:
    """End what dbt left running under a name: its queries stop on the server too."""
    with open_connection(database) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND application_name = %s",
            (application,),
        )
