"""Adjustments: asking for one, deciding it, caps, and what settlement writes beside its journal.

What belongs here: calls of the functions that decide, and reading how adjustments stand.
What does not: the rules (they are the database's, see migration 0006), and the engine's part of an adjustment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from decimal import Decimal

import psycopg
from psycopg.rows import class_row

from engine.ledger.journal import Journal

_KIND = "adjust"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """How an adjustment stands.

    Attributes:
        adjustment_id: its number.
        revision: in force, or decided.
        user_id: whose balance it moves.
        account: that user's account.
        asset: symbol.
        amount: credited, or taken where negative.
        reason_code: a row of `accounts.adjustment_reasons`; it decides the house account on the other side.
        reason: why, in words.
        ticket: where it was asked for; one ticket, one adjustment.
        maker: who asked for this revision.
        at: when.
        payload_sha256: hex hash over its canonical JSON; what an approval names.
        checker: who decided.
        decided_at: when.
        reference: in the engine's journal and the ledger.
        engine_seq: of the command.
        outcome: what the engine answered.
        posting_no: of its journal in the ledger.
        close_date: of that journal.
        status: requested, rejected, approved, accepted (by the engine), refused (by it) or settled.
    """

    adjustment_id: int
    revision: int
    user_id: int
    account: str
    asset: str
    amount: Decimal
    reason_code: str
    reason: str
    ticket: str
    maker: str
    at: datetime
    payload_sha256: str
    checker: str | None
    decided_at: datetime | None
    reference: str | None
    engine_seq: int | None
    outcome: str | None
    posting_no: int | None
    close_date: date | None
    status: str


_COLUMNS = ", ".join(f.name for f in fields(Adjustment))


def request(
    connection: psycopg.Connection,
    user_id: int,
    asset: str,
    amount: Decimal,
    *,
    reason_code: str,
    reason: str,
    ticket: str,
    maker: str,
) -> Adjustment:
    """Ask for an adjustment; the same ticket and payload again give the one that is there.

    Args:
        connection: as the application; the caller commits.
        user_id: whose balance.
        asset: symbol.
        amount: credited, or taken where negative.
        reason_code: of `accounts.adjustment_reasons`.
        reason: why, in words.
        ticket: where it was asked for.
        maker: who asks.

    Raises:
        psycopg.Error: typed by `typed_errors`: beyond a cap, more than there is, a ticket of another payload.
    """
    row = connection.execute(
        "SELECT adjustment_id FROM accounts.request_adjustment(%s, %s, %s, %s, %s, %s, %s)",
        (user_id, asset, amount, reason_code, reason, ticket, maker),
    ).fetchone()
    assert row is not None
    return read(connection, int(row[0]))


def revise(
    connection: psycopg.Connection,
    adjustment_id: int,
    *,
    amount: Decimal | None,
    reason_code: str | None,
    reason: str | None,
    maker: str,
) -> Adjustment:
    """Change an adjustment that nobody decided: a new revision with another hash; None leaves a field as it is."""
    connection.execute(
        "SELECT accounts.revise_adjustment(%s, %s, %s, %s, %s)", (adjustment_id, amount, reason_code, reason, maker)
    )
    return read(connection, adjustment_id)


def approve(connection: psycopg.Connection, adjustment_id: int, payload_sha256: str, checker: str) -> Adjustment:
    """Approve an adjustment as it stands, which asks the engine for its command."""
    connection.execute("SELECT accounts.approve_adjustment(%s, %s, %s)", (adjustment_id, payload_sha256, checker))
    return read(connection, adjustment_id)


def reject(
    connection: psycopg.Connection, adjustment_id: int, payload_sha256: str, checker: str, reason: str
) -> Adjustment:
    """Reject an adjustment, or take back one's own."""
    connection.execute(
        "SELECT accounts.reject_adjustment(%s, %s, %s, %s)", (adjustment_id, payload_sha256, checker, reason)
    )
    return read(connection, adjustment_id)


def set_cap(
    connection: psycopg.Connection,
    asset: str,
    *,
    max_amount: Decimal,
    max_share_ppm: int,
    max_maker_day: Decimal,
    effective_at: datetime | None,
    reason: str,
    maker: str,
    checker: str,
) -> int:
    """Set an asset's caps from an instant on (None: now).

    Args:
        connection: as the database's owner.
        asset: symbol.
        max_amount: of one adjustment.
        max_share_ppm: of one adjustment, in millionths of all customers' holdings of the asset.
        max_maker_day: of all approved adjustments of one maker in a UTC day.
        effective_at: never in the past.
        reason: why.
        maker: who asks.
        checker: who agrees.

    Returns:
        The row's number.
    """
    row = connection.execute(
        "SELECT accounts.set_adjustment_cap(%s, %s, %s, %s, %s, %s, %s, %s)",
        (asset, max_amount, max_share_ppm, max_maker_day, effective_at, reason, maker, checker),
    ).fetchone()
    assert row is not None
    return int(row[0])


def caps(connection: psycopg.Connection) -> list[dict[str, str]]:
    """All caps, by asset and the instant from which they hold; JSON-ready."""
    rows = connection.execute(
        "SELECT asset, close.iso_us(effective_at), trim_scale(max_amount)::text, max_share_ppm::text,"
        " trim_scale(max_maker_day)::text, reason, maker, checker FROM accounts.adjustment_caps"
        " ORDER BY asset, effective_at, cap_id"
    ).fetchall()
    keys = ("asset", "effective_at", "max_amount", "max_share_ppm", "max_maker_day", "reason", "maker", "checker")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def read(connection: psycopg.Connection, adjustment_id: int) -> Adjustment:
    """One adjustment that is there."""
    with connection.cursor(row_factory=class_row(Adjustment)) as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM accounts.adjustments WHERE adjustment_id = %s".encode(), (adjustment_id,)
        ).fetchone()
    assert found is not None
    return found


def find(
    connection: psycopg.Connection, *, adjustment_id: int | None = None, status: str | None = None, limit: int = 200
) -> list[Adjustment]:
    """Adjustments, the last one first."""
    with connection.cursor(row_factory=class_row(Adjustment)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM accounts.adjustments WHERE (%(i)s::bigint IS NULL OR adjustment_id = %(i)s)"
            " AND (%(s)s::text IS NULL OR status = %(s)s) ORDER BY adjustment_id DESC LIMIT %(n)s".encode(),
            {"i": adjustment_id, "s": status, "n": limit},
        ).fetchall()


def signed(connection: psycopg.Connection, journals: Sequence[Journal]) -> list[Journal]:
    """The journals, those of adjustments with the reason and the two people that the approval names.

    What nobody approved stays as it is; the ledger refuses it.
    """
    references = [journal.reference_id for journal in journals if journal.kind == _KIND]
    if not references:
        return list(journals)
    rows = connection.execute(
        "SELECT reference, accounts.adjustment_actor(maker, checker), reason FROM accounts.adjustments"
        " WHERE adjustment_id IN (SELECT split_part(r, '/', 3)::bigint FROM unnest(%(r)s::text[]) r"
        " WHERE r ~ '^adj/[a-z_]+/[0-9]{1,18}$') AND reference = ANY(%(r)s)",
        {"r": references},
    ).fetchall()
    approved = {str(row[0]): (str(row[1]), str(row[2])) for row in rows}
    return [
        replace(journal, actor=approved[journal.reference_id][0], reason=approved[journal.reference_id][1])
        if journal.kind == _KIND and journal.reference_id in approved
        else journal
        for journal in journals
    ]
