"""Staking of a day: positions, the pot and what it owes.

What belongs here: calling the accrual and reading what it came to.
What does not: the shares themselves (one function in the database), and the policy's rule (see `engine.staking`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg


@dataclass(frozen=True)
class Pot:
    """The rewards pot of a day, in the staking asset."""

    asset: str
    opening: Decimal
    funded: Decimal
    paid: Decimal
    closing: Decimal
    stakers: int


@dataclass(frozen=True)
class RewardsAccrued:
    """What an accrual wrote: users rewarded, journals posted now, a digest over positions and rewards, and the pot."""

    rows: int
    journals: int
    digest: str
    pot: Pot | None


def accrue(connection: psycopg.Connection, day: date, version: int, epoch: int, actor: str) -> RewardsAccrued:
    """Write a day's staking positions and rewards, and post what they differ from what was booked before."""
    done = connection.execute(
        "SELECT rows, journals FROM ledger.write_reward_accruals(%s, %s, %s)", (day, epoch, actor)
    ).fetchone()
    digest = connection.execute(
        "SELECT close.table_digest(array_agg(close.row_hash(s.user_id::text, s.asset, trim_scale(s.closing)::text,"
        " s.stake_unit_us::text, trim_scale(r.amount)::text))) FROM positions.staking_positions s"
        " LEFT JOIN ledger.reward_accruals r USING (close_date, version, user_id, asset)"
        " WHERE s.close_date = %s AND s.version = %s",
        (day, version),
    ).fetchone()
    pot = connection.execute(
        "SELECT asset, opening, funded, paid, closing, stakers FROM ledger.rewards_pots"
        " WHERE close_date = %s AND version = %s",
        (day, version),
    ).fetchone()
    assert done is not None
    assert digest is not None
    return RewardsAccrued(int(done[0]), int(done[1]), str(digest[0]), Pot(*pot) if pot else None)


def before(connection: psycopg.Connection, day: date, version: int) -> dict[str, str | None]:
    """What an accrual rests on besides the day's own journals: yesterday's books, this day's fees and marks."""
    rows = connection.execute(
        "SELECT step_name, output_digest FROM close.eod_runs WHERE close_date = %s AND version = %s"
        " AND step_name IN ('fee_accruals', 'mark_prices')",
        (day, version),
    ).fetchall()
    books = connection.execute("SELECT books_sha256 FROM close.days WHERE close_date = %s::date - 1", (day,)).fetchone()
    return {str(name): digest for name, digest in rows} | {"yesterday": books[0] if books else None}
