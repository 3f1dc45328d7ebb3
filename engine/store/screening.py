"""Screening: comparing users with a list.

What belongs here: the two calls. What does not: reading a list (see `engine.steps.screening_hits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import psycopg


def users(connection: psycopg.Connection) -> int:
    """How many users there are."""
    row = connection.execute("SELECT count(*) FROM accounts.users").fetchone()
    assert row is not None
    return int(row[0])


def screen(connection: psycopg.Connection, day: date, epoch: int, version: str, entries: Sequence[str]) -> int:
    """Open a sanctions hold for every user on the list; returns how many hits are new."""
    row = connection.execute("SELECT accounts.screen(%s, %s, %s, %s)", (day, epoch, version, list(entries))).fetchone()
    assert row is not None
    return int(row[0])
