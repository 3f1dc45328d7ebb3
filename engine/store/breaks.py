"""Breaks: differences between two sources that nobody has closed yet.

What belongs here: reading them.
What does not: writing them (the database's judge does, with the verdict).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg

from engine.money import text_of


@dataclass(frozen=True, slots=True)
class Break:
    """One difference: `difference` is actual − expected, e.g. engine − ledger."""

    break_id: int
    gate: str
    subject: str
    asset: str
    expected: Decimal
    actual: Decimal
    difference: Decimal
    state: str
    first_date: date
    last_date: date

    def as_dict(self) -> dict[str, str]:
        """JSON-ready, without ids and times: equal for equal breaks."""
        return {
            "account": self.subject,
            "asset": self.asset,
            "expected": text_of(self.expected),
            "actual": text_of(self.actual),
            "difference": text_of(self.difference),
        }


def open_breaks(connection: psycopg.Connection, day: date | None = None, gate: str | None = None) -> list[Break]:
    """Breaks that are neither corrected nor closed, by account and asset.

    Args:
        connection: any.
        day: only those last seen on this date.
        gate: only those of this gate.
    """
    rows = connection.execute(
        "SELECT break_id, gate, subject, asset, expected, actual, difference, state, first_date, last_date"
        " FROM recon.breaks WHERE state NOT IN ('corrected', 'closed') AND (%(d)s::date IS NULL OR last_date = %(d)s)"
        " AND (%(g)s::text IS NULL OR gate = %(g)s) ORDER BY subject, asset, gate",
        {"d": day, "g": gate},
    )
    return [Break(*row) for row in rows]
