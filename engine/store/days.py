"""Days as the database has them: state, barrier, books hash, gates.

What belongs here: reading `close.days` and the gates of a day. Moving a day is done by the database's own functions.
What does not: runs of steps (see `runs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg


@dataclass(frozen=True)
class Day:
    """One close date.

    Attributes:
        state: `open`, `cutoff`, `reconciled`, `sealed` or `reopened`.
        barrier_seq: the engine's sequence of its cut-off, none while open.
        books_sha256: the books hash once it is fixed.
    """

    close_date: date
    version: int
    state: str
    barrier_seq: int | None
    cutoff_at: datetime | None
    policy_sha256: str | None
    books_sha256: str | None
    genesis: bool


@dataclass(frozen=True)
class Gate:
    """How a required gate stands for the books hash in force; `stands` counts a waiver, `verdict` never does."""

    gate: str
    scope: str
    verdict: str
    waiver: str | None
    stands: bool
    detail: dict[str, Any]


_COLUMNS = "close_date, version, state, barrier_seq, cutoff_at, policy_sha256, books_sha256, genesis"


def read(connection: psycopg.Connection, day: date) -> Day | None:
    """One day, none where it is not open yet."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM close.days WHERE close_date = %s".encode(), (day,)).fetchone()
    return Day(*row) if row else None


def all_days(connection: psycopg.Connection) -> list[Day]:
    """Every day, oldest first, genesis included."""
    return [Day(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM close.days ORDER BY 1".encode())]


def gates(connection: psycopg.Connection, day: date) -> list[Gate]:
    """The required gates of a day, by name."""
    rows = connection.execute(
        "SELECT gate, scope, verdict, waiver, stands, detail FROM recon.gates(%s) ORDER BY gate, scope", (day,)
    )
    return [Gate(*row) for row in rows]


def judge(connection: psycopg.Connection, day: date, gate: str, epoch: int) -> str:
    """Have the database judge a gate for the books hash in force; returns `pass`, `fail` or `unknown`."""
    row = connection.execute("SELECT recon.judge(%s, %s, %s)", (day, gate, epoch)).fetchone()
    assert row is not None
    return str(row[0])
