"""Fees of a day: the sweep, and what it came to.

What belongs here: calling the sweep and digesting its rows.
What does not: the sweep itself (one function in the database), and charging fees (the engine does, per trade).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg


@dataclass(frozen=True)
class FeesSwept:
    """What a sweep wrote.

    Attributes:
        rows: accrual rows: one a user, asset and role.
        journals: posted now; none where nothing had changed.
        digest: over the rows.
        income: the day's fee income by asset.
    """

    rows: int
    journals: int
    digest: str
    income: dict[str, Decimal]


def sweep(connection: psycopg.Connection, day: date, version: int, epoch: int, actor: str) -> FeesSwept:
    """Write the accrual rows of a day and post what they differ from what was swept before."""
    done = connection.execute(
        "SELECT rows, journals FROM ledger.sweep_fees(%s, %s, %s)", (day, epoch, actor)
    ).fetchone()
    digest = connection.execute(
        "SELECT close.table_digest(array_agg(close.row_hash(u.account, f.asset, f.role, trim_scale(f.amount)::text)))"
        " FROM ledger.fee_accruals f JOIN accounts.users u USING (user_id) WHERE f.close_date = %s AND f.version = %s",
        (day, version),
    ).fetchone()
    income = connection.execute(
        "SELECT asset, sum(amount) FROM ledger.fee_accruals WHERE close_date = %s AND version = %s"
        " GROUP BY 1 ORDER BY 1",
        (day, version),
    ).fetchall()
    assert done is not None
    assert digest is not None
    return FeesSwept(int(done[0]), int(done[1]), str(digest[0]), {str(asset): amount for asset, amount in income})
