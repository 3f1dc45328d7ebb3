"""Breaks: differences between two sources, and what people do with them.

What belongs here: reading them, and the database's functions that move them from open to closed.
What does not: finding them (the database's judge does, with the verdict).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import psycopg

from engine.money import text_of

AGES = ((1, "new"), (3, "1-2 days"), (8, "3-7 days"), (31, "8-30 days"))
"""Buckets of age: below so many close dates, its name."""


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
    owner: str | None
    reason_code: str | None

    @property
    def age(self) -> str:
        """Its bucket, by the close dates that it was seen on."""
        days = (self.last_date - self.first_date).days
        return next((name for below, name in AGES if days < below), "over 30 days")

    def as_dict(self) -> dict[str, str]:
        """JSON-ready, without ids and times: equal for equal breaks."""
        return {
            "account": self.subject,
            "asset": self.asset,
            "expected": text_of(self.expected),
            "actual": text_of(self.actual),
            "difference": text_of(self.difference),
        }


_COLUMNS = (
    "break_id, gate, subject, asset, expected, actual, difference, state, first_date, last_date, owner, reason_code"
)


def open_breaks(connection: psycopg.Connection, day: date | None = None, gate: str | None = None) -> list[Break]:
    """Breaks that are neither corrected nor closed, by account and asset.

    Args:
        connection: any.
        day: only those last seen on this date.
        gate: only those of this gate.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS}"
        " FROM recon.breaks WHERE state NOT IN ('corrected', 'closed') AND (%(d)s::date IS NULL OR last_date = %(d)s)"
        " AND (%(g)s::text IS NULL OR gate = %(g)s) ORDER BY subject, asset, gate".encode(),
        {"d": day, "g": gate},
    )
    return [Break(*row) for row in rows]


def all_breaks(connection: psycopg.Connection, *, closed: bool) -> list[Break]:
    """Every break that is not closed, or also those, the oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM recon.breaks WHERE %s OR state <> 'closed' ORDER BY break_id".encode(), (closed,)
    )
    return [Break(*row) for row in rows]


def one(connection: psycopg.Connection, number: int) -> Break | None:
    """A break by its number."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM recon.breaks WHERE break_id = %s".encode(), (number,)).fetchone()
    return Break(*row) if row else None


def events(connection: psycopg.Connection, number: int) -> list[dict[str, Any]]:
    """What was done with a break, the oldest first; JSON-ready."""
    rows = connection.execute(
        "SELECT close.iso_us(at), what, actor, second, text, evidence FROM recon.break_events"
        " WHERE break_id = %s ORDER BY event_id",
        (number,),
    )
    return [dict(zip(("at", "what", "actor", "second", "text", "evidence"), row, strict=True)) for row in rows]


def assign(connection: psycopg.Connection, number: int, who: str, owner: str) -> None:
    """Give a break an owner."""
    connection.execute("SELECT recon.assign_break(%s, %s, %s)", (number, who, owner))


def comment(connection: psycopg.Connection, number: int, who: str, said: str, evidence: str | None) -> None:
    """Say something of a break, with a link to evidence."""
    connection.execute("SELECT recon.comment_break(%s, %s, %s, %s)", (number, who, said, evidence))


def explain(
    connection: psycopg.Connection, number: int, who: str, reason_code: str, said: str, evidence: str | None
) -> None:
    """Say why a break is there."""
    connection.execute("SELECT recon.explain_break(%s, %s, %s, %s, %s)", (number, who, reason_code, said, evidence))


def correct(
    connection: psycopg.Connection,
    number: int,
    side: str,
    who: str,
    second: str,
    why: str,
    counter: str | None,
    reference: str | None = None,
) -> str:
    """Correct the wrong side by the break's own amount, as the owner; returns the posting or the request.

    Args:
        connection: of the database's owner: no service corrects by itself.
        number: of the break.
        side: `ledger` or `engine`.
        who: maker.
        second: checker.
        why: kept with the posting.
        counter: the house account of the other leg, where the ledger is corrected.
        reference: the deposit or withdrawal that is undone, where that leg is a wallet's.
    """
    row = connection.execute(
        "SELECT recon.correct_break(%s, %s, %s, %s, %s, %s, %s)",
        (number, side, who, second, why, counter, reference),
    ).fetchone()
    assert row is not None
    return str(row[0])


def close(connection: psycopg.Connection, number: int, who: str, second: str, why: str) -> None:
    """Close an explained or corrected break, as the owner; its user's hold is released."""
    connection.execute("SELECT recon.close_break(%s, %s, %s, %s)", (number, who, second, why))


def waive(
    connection: psycopg.Connection,
    gate: str,
    scope: str,
    day: date,
    asset: str,
    cap: Decimal,
    why: str,
    who: str,
    second: str,
    until: datetime,
) -> int:
    """Let a date seal over a waivable gate's break up to a cap, as the owner; the verdict stays. Returns its number."""
    row = connection.execute(
        "SELECT recon.waive(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (gate, scope, day, asset, cap, why, who, second, until),
    ).fetchone()
    assert row is not None
    return int(row[0])
