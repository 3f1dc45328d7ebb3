"""What moves a day: the database's own functions, by name.

What belongs here: calling them and reading what they return. Each refuses by itself what must not be.
What does not: when to call which (see `engine.steps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import psycopg


@dataclass(frozen=True)
class BooksFixed:
    """The trial balance's rows and the books hash over the day."""

    rows: int
    books_sha256: str


@dataclass(frozen=True)
class SnapshotWritten:
    """A day's snapshot: rows, digest over their hashes, value in the reporting currency, users."""

    rows: int
    digest: str
    value: Decimal
    users: int


def limit(connection: psycopg.Connection, seconds: int) -> None:
    """Have Postgres end this transaction after so many seconds, idle or running."""
    connection.execute(f"SET LOCAL transaction_timeout = '{int(seconds)}s'".encode())


def fence(connection: psycopg.Connection, day: date, epoch: int) -> None:
    """The last statement before COMMIT of every writing transaction: refuse where the lease is another's by now."""
    connection.execute("SELECT close.fence(%s, %s)", (day, epoch))


def cut_off(connection: psycopg.Connection, day: date, epoch: int, barrier_seq: int, at: datetime) -> None:
    """Move a day from `open` to `cutoff` at a settled barrier, and open the next."""
    connection.execute("SELECT close.cut_off_day(%s, %s, %s, %s)", (day, epoch, barrier_seq, at))


def fix_books(connection: psycopg.Connection, day: date, epoch: int) -> BooksFixed:
    """Write the day's balances and trial balance, and fix the books hash over its inputs."""
    rows = connection.execute("SELECT ledger.write_control_totals(%s, %s)", (day, epoch)).fetchone()
    fixed = connection.execute("SELECT close.fix_books_hash(%s, %s)", (day, epoch)).fetchone()
    assert rows is not None
    assert fixed is not None
    return BooksFixed(int(rows[0]), str(fixed[0]))


def write_snapshot(connection: psycopg.Connection, day: date, version: int, epoch: int) -> SnapshotWritten:
    """Write every user's balances, marks and values for the books hash in force."""
    rows = connection.execute("SELECT close.write_user_balance_snapshots(%s, %s)", (day, epoch)).fetchone()
    facts = connection.execute(
        "SELECT close.table_digest(array_agg(row_hash)), coalesce(sum(value), 0), count(DISTINCT account)"
        " FROM close.user_balance_snapshots WHERE close_date = %s AND version = %s",
        (day, version),
    ).fetchone()
    assert rows is not None
    assert facts is not None
    return SnapshotWritten(int(rows[0]), str(facts[0]), facts[1], int(facts[2]))


def settled_to(connection: psycopg.Connection) -> int:
    """The last engine sequence that the ledger has settled."""
    row = connection.execute("SELECT last_seq FROM ledger.settlement_cursor").fetchone()
    assert row is not None
    return int(row[0])


def counts(connection: psycopg.Connection, day: date) -> tuple[int, int]:
    """Trades and journals of a close date."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM exchange.trades WHERE close_date = %(d)s),"
        " (SELECT count(*) FROM ledger.journals WHERE close_date = %(d)s)",
        {"d": day},
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
