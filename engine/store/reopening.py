"""Reopening a sealed date, and what moved between two of its versions.

What belongs here: calling the database's own functions and reading what they return.
What does not: closing the date again (see `engine.steps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg


@dataclass(frozen=True, slots=True)
class Reopened:
    """One date that a reopening took along: what it was, and the version that it will close as."""

    close_date: date
    was: str
    version: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of an account and asset that differs between two versions; none where a version has no such row."""

    account: str
    asset: str
    what: str
    was: Decimal | None
    now: Decimal | None


def reopen(connection: psycopg.Connection, day: date, *, reason: str, maker: str, checker: str) -> list[Reopened]:
    """Reopen a sealed date and every later one, in one transaction.

    Args:
        connection: as the application; in autocommit or a transaction of the caller's.
        day: a sealed close date.
        reason: why, kept for ever.
        maker: who asks.
        checker: the second person, who agrees.

    Returns:
        Every date touched, the newest first.

    Raises:
        GateError: it is not sealed, or two different people are not named.
    """
    rows = connection.execute("SELECT * FROM close.reopen(%s, %s, %s, %s)", (day, reason, maker, checker))
    return [Reopened(*row) for row in rows]


def later_days(connection: psycopg.Connection, day: date) -> list[Reopened]:
    """What a reopening of a date would touch, the newest first; nothing is changed."""
    rows = connection.execute(
        "SELECT close_date, state, version + (state = 'sealed')::integer FROM close.days"
        " WHERE close_date >= %s AND state <> 'open' ORDER BY close_date DESC",
        (day,),
    )
    return [Reopened(*row) for row in rows]


def differences(connection: psycopg.Connection, day: date, old: int, new: int) -> list[Difference]:
    """What moved between two versions of a date, by account, asset and figure."""
    rows = connection.execute(
        "SELECT * FROM close.version_differences(%s, %s, %s) UNION ALL"
        " SELECT u.account, p.asset, p.what, p.was, p.now FROM positions.version_differences(%s, %s, %s) p"
        " JOIN accounts.users u USING (user_id) WHERE p.what <> 'mark' ORDER BY 1, 2, 3",
        (day, old, new, day, old, new),
    )
    return [Difference(*row) for row in rows]
