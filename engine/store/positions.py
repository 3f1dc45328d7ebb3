"""Positions: what users traded and hold over time.

What belongs here: the 30-day volume and the tiers it earns. What does not: schedules (see `engine.fees`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg


@dataclass(frozen=True)
class VolumesWritten:
    """What a day's volumes came to.

    Attributes:
        rows: users with a volume.
        digest: over the rows.
        day_volume: of the day, over all users (both sides of each trade).
        tiers: users by tier.
        rates_asked: tiers whose rates the engine is asked to change.
        users_asked: users whose tier it is asked to change.
    """

    rows: int
    digest: str
    day_volume: Decimal
    tiers: dict[int, int]
    rates_asked: int
    users_asked: int


def write_volumes(connection: psycopg.Connection, day: date, version: int, epoch: int) -> VolumesWritten:
    """Write every user's 30-day volume in place of what was there, and ask the engine for the tiers that change."""
    rows = connection.execute("SELECT positions.write_volume_30d(%s, %s)", (day, epoch)).fetchone()
    asked = connection.execute("SELECT rates, users FROM positions.ask_for_tiers(%s, %s)", (day, epoch)).fetchone()
    facts = connection.execute(
        "SELECT close.table_digest(array_agg(close.row_hash(user_id::text, trim_scale(day_volume)::text,"
        " trim_scale(volume)::text, tier::text))), coalesce(sum(day_volume), 0) FROM positions.volume_30d"
        " WHERE close_date = %s AND version = %s",
        (day, version),
    ).fetchone()
    tiers = connection.execute(
        "SELECT tier, count(*) FROM positions.volume_30d WHERE close_date = %s AND version = %s GROUP BY 1 ORDER BY 1",
        (day, version),
    ).fetchall()
    assert rows is not None
    assert asked is not None
    assert facts is not None
    counts = {int(tier): int(many) for tier, many in tiers}
    return VolumesWritten(int(rows[0]), str(facts[0]), facts[1], counts, int(asked[0]), int(asked[1]))


def before(connection: psycopg.Connection, day: date) -> dict[str, str | None]:
    """Digests of what a day's volumes rest on besides its trades: its marks, and yesterday's volumes."""
    rows = connection.execute(
        "SELECT r.step_name, r.output_digest FROM close.eod_runs r JOIN close.days y USING (close_date, version)"
        " WHERE (r.close_date = %(d)s AND r.step_name = 'mark_prices')"
        " OR (r.close_date = %(d)s::date - 1 AND r.step_name = 'volume_30d')",
        {"d": day},
    ).fetchall()
    return {str(name): digest for name, digest in rows}
