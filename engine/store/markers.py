"""Comparisons of engine and ledger at markers: the snapshot, the engine's rows into it, and what came of them.

What belongs here: one comparison as one transaction, and reading results.
What does not: when there is a marker and who waits for it (see `engine.service.comparing`), and the verdict itself
(the database's function computes and writes it, see migrations/sql/0013).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg

from engine.store import books
from engine.store.one_snapshot import in_one_snapshot

_COLUMNS = (
    "marker_seq, close_date, close.iso_us(sequenced_at), reference, verdict, engine_rows, ledger_rows, breaks,"
    " compared_ms, detail, close.iso_us(judged_at)"
)


@dataclass(frozen=True, slots=True)
class MarkerAt:
    """A marker of the journal: its sequence, the close date it lies in, its time, and the request it answers."""

    seq: int
    close_date: date
    sequenced: datetime
    reference: str


@dataclass(frozen=True, slots=True)
class MarkerResult:
    """What the comparison at a marker came to; the counts are None where there was none."""

    seq: int
    close_date: date
    sequenced_at: str
    reference: str
    verdict: str
    engine_rows: int | None
    ledger_rows: int | None
    breaks: int | None
    compared_ms: int | None
    detail: dict[str, Any]
    judged_at: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "sequence": self.seq,
            "close_date": str(self.close_date),
            "sequenced_at": self.sequenced_at,
            "verdict": self.verdict,
            "engine_rows": self.engine_rows,
            "ledger_rows": self.ledger_rows,
            "breaks": self.breaks,
            "compared_ms": self.compared_ms,
            "judged_at": self.judged_at,
            "detail": self.detail,
        }


def compare(
    connection: psycopg.Connection, marker: MarkerAt, book: str, lines: Iterable[bytes], count: int, *, limit_s: int
) -> str | None:
    """Compare at a marker that settlement has just reached, in one REPEATABLE READ snapshot.

    Args:
        connection: as the application role, in autocommit, outside a transaction.
        marker: settlement is at its sequence.
        book: named in the event.
        lines: the engine's rows as COPY takes them, in blocks: account, asset, amount; iterated anew on a retry.
        count: how many rows they are.
        limit_s: Postgres ends the transaction after so long.

    Returns:
        The verdict, or None where the marker has one already.

    Raises:
        psycopg.Error, UncheckedError: it could not be compared; nothing was written.
    """
    return in_one_snapshot(
        connection,
        f"marker {marker.seq}",
        lambda: _compare(connection, marker, book, lines, count, limit_s),
    )


def _compare(
    connection: psycopg.Connection, marker: MarkerAt, book: str, lines: Iterable[bytes], count: int, limit_s: int
) -> str | None:
    with connection.transaction():
        connection.execute(f"SET LOCAL transaction_timeout = '{limit_s}s'".encode())
        said = connection.execute("SELECT recon.begin_marker(%s)", (marker.seq,)).fetchone()
        assert said is not None
        if said[0] == "judged":
            return None
        if said[0] is not None:
            return _unknown(connection, marker, book, str(said[0]))
        with connection.cursor() as cursor, cursor.copy("COPY recon.marker_balances FROM STDIN") as copy:
            for block in lines:
                copy.write(block)
        row = connection.execute(
            "SELECT recon.judge_marker(%s, %s, %s, %s, %s, %s)",
            (marker.seq, marker.close_date, marker.sequenced, marker.reference, book, count),
        ).fetchone()
        assert row is not None
        return None if row[0] is None else str(row[0])


def unknown(connection: psycopg.Connection, marker: MarkerAt, book: str, why: str) -> str | None:
    """Write down that a marker was not compared, and why; None where it has its verdict."""
    with connection.transaction():
        return _unknown(connection, marker, book, why)


def _unknown(connection: psycopg.Connection, marker: MarkerAt, book: str, why: str) -> str | None:
    row = connection.execute(
        "SELECT recon.marker_unknown(%s, %s, %s, %s, %s, %s)",
        (marker.seq, marker.close_date, marker.sequenced, marker.reference, book, why),
    ).fetchone()
    assert row is not None
    return None if row[0] is None else str(row[0])


def recent(connection: psycopg.Connection, limit: int) -> list[MarkerResult]:
    """The last results, newest marker first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM recon.markers ORDER BY marker_seq DESC LIMIT %s".encode(), (limit,)
    )
    return [MarkerResult(*row) for row in rows]


def of_reference(connection: psycopg.Connection, reference: str) -> MarkerResult | None:
    """The result of the marker that a request asked for."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM recon.markers WHERE reference = %s ORDER BY marker_seq LIMIT 1".encode(), (reference,)
    ).fetchone()
    return MarkerResult(*row) if row else None


def request(connection: psycopg.Connection) -> str:
    """Ask the exchange for a marker now; returns its reference."""
    row = connection.execute("SELECT recon.request_marker()").fetchone()
    assert row is not None
    return str(row[0])


def since(connection: psycopg.Connection) -> int:
    """The sequence up to which every marker has its result: the last one's, else the last barrier's."""
    row = connection.execute(
        "SELECT coalesce((SELECT max(marker_seq) FROM recon.markers), (SELECT max(barrier_seq) FROM close.days), 0)"
    ).fetchone()
    assert row is not None
    return int(row[0])


def day_of(connection: psycopg.Connection, seq: int) -> date:
    """The close date that a sequence lies in, as far as dates are cut off; beyond, the last open one."""
    row = connection.execute(
        "SELECT coalesce(min(y.close_date) FILTER (WHERE y.barrier_seq >= %s), max(y.close_date), min(b.first_day))"
        " FROM close.book b LEFT JOIN close.days y ON NOT y.genesis",
        (seq,),
    ).fetchone()
    assert row is not None
    day: date = row[0]
    return day


def last_judged(connection: psycopg.Connection) -> datetime | None:
    """When a marker was last given a result."""
    row = connection.execute("SELECT max(judged_at) FROM recon.markers").fetchone()
    assert row is not None
    at: datetime | None = row[0]
    return at


def rule(connection: psycopg.Connection) -> tuple[int, int]:
    """Seconds between two markers (0: none) and seconds that one may wait, by the policy of the last open date."""
    row = connection.execute(
        "SELECT coalesce((SELECT max(close_date) FROM close.days WHERE NOT genesis), first_day) FROM close.book"
    ).fetchone()
    assert row is not None
    policy = books.policy_on(connection, row[0])
    return policy.marker_every_s, policy.marker_deadline_s
