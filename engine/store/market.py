"""Prices: venue readings as they were stored, ticks, and what an index price was made of.

What belongs here: those queries.
What does not: reading bytes and making prices (see `engine.market`), closing marks (see `capture`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

import psycopg

from engine.market.readings import PREFIX, SUBJECT
from engine.market.ticks import IndexTick, StoredReading
from engine.money import from_units
from engine.store.postings import copy_rows

Tick = tuple[str, datetime, Decimal, str]
"""Asset, instant, price, source."""


def store_reading(connection: psycopg.Connection, venue: str, at: datetime, raw: bytes) -> bool:
    """Store what a venue said, once per venue and instant; False where it is there already.

    Args:
        connection: as the collector.
        venue: its name.
        at: when it said so.
        raw: its bytes.
    """
    done = connection.execute(
        "INSERT INTO capture.readings (source, subject, at, raw) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (source, subject, at) DO NOTHING",
        (PREFIX + venue, SUBJECT, at, raw),
    )
    return done.rowcount == 1


def readings(connection: psycopg.Connection, since: datetime, until: datetime) -> list[StoredReading]:
    """What venues said between two instants, both included, in order."""
    rows = connection.execute(
        "SELECT reading_id, substr(source, %s), at, raw FROM capture.readings"
        " WHERE subject = %s AND starts_with(source, %s) AND at BETWEEN %s AND %s ORDER BY at, source",
        (len(PREFIX) + 1, SUBJECT, PREFIX, since, until),
    )
    return [StoredReading(int(n), str(venue), at, bytes(raw)) for n, venue, at, raw in rows]


def coins(connection: psycopg.Connection) -> list[str]:
    """Every asset of the book."""
    return [str(row[0]) for row in connection.execute("SELECT asset FROM exchange.assets ORDER BY asset")]


def decimals(connection: psycopg.Connection) -> dict[str, int]:
    """The decimals of every asset of the book."""
    return {str(row[0]): int(row[1]) for row in connection.execute("SELECT asset, decimals FROM exchange.assets")}


def insert_ticks(connection: psycopg.Connection, ticks: Iterable[Tick]) -> int:
    """Add ticks; one that is there stays as it was. Returns how many are new."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO market.mark_ticks (asset, at, price, source) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            list(ticks),
        )
        return max(cursor.rowcount, 0)


def tick_at(connection: psycopg.Connection, asset: str, at: datetime, source: str) -> tuple[Decimal, datetime] | None:
    """The last tick of an asset and source at or before an instant: price and time."""
    row = connection.execute(
        "SELECT price, tick_at FROM market.tick_at(%s, %s, NULL, %s)", (asset, at, source)
    ).fetchone()
    return (row[0], row[1]) if row else None


def replace_constituents(connection: psycopg.Connection, day: date, version: int, used: Sequence[IndexTick]) -> None:
    """Write what the closing index prices of a day were made of; `close.replace_mark_prices` took the old rows away."""
    copy_rows(
        connection,
        "market.index_constituents (close_date, version, asset, venue, reading_id, price, counted, weight)",
        (
            (day, version, tick.asset, p.venue, tick.readings[p.venue], p.price, _text(p.counted), p.weight)
            for tick in used
            for p in tick.price.constituents
        ),
    )


def seen(connection: psycopg.Connection, sources: Sequence[str], since: datetime, until: datetime) -> dict[str, int]:
    """How many readings and ticks of these sources there are between two instants: what a closing mark may rest on."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM capture.readings WHERE subject = %(s)s AND starts_with(source, %(p)s)"
        " AND at BETWEEN %(a)s AND %(b)s), (SELECT count(*) FROM market.mark_ticks WHERE source = ANY(%(n)s)"
        " AND source <> 'index' AND at BETWEEN %(a)s AND %(b)s)",
        {"s": SUBJECT, "p": PREFIX, "a": since, "b": until, "n": list(sources)},
    ).fetchone()
    assert row is not None
    return {"readings": int(row[0]), "ticks": int(row[1])}


def _text(value: Fraction) -> str:
    return format(from_units(round(value * 10**18), 18), "f")
