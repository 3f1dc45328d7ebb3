"""Positions: what users traded and hold over time.

What belongs here: the 30-day volume. What does not: fee tiers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg


@dataclass(frozen=True)
class VolumesWritten:
    """Rows, digest over them, and the day's volume over all users (both sides of each trade)."""

    rows: int
    digest: str
    day_volume: Decimal


def write_volumes(connection: psycopg.Connection, day: date, version: int, epoch: int) -> VolumesWritten:
    """Write every user's 30-day volume in place of what was there."""
    rows = connection.execute("SELECT positions.write_volume_30d(%s, %s)", (day, epoch)).fetchone()
    facts = connection.execute(
        "SELECT close.table_digest(array_agg(close.row_hash(user_id::text, trim_scale(day_volume)::text,"
        " trim_scale(volume)::text))), coalesce(sum(day_volume), 0) FROM positions.volume_30d"
        " WHERE close_date = %s AND version = %s",
        (day, version),
    ).fetchone()
    assert rows is not None
    assert facts is not None
    return VolumesWritten(int(rows[0]), str(facts[0]), facts[1])
