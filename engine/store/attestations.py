"""Attestations in the database: captured documents, the entries of a day, and reserves against liabilities.

What belongs here: reading and writing those rows.
What does not: what a document is worth (see `engine.reserves.attested`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import psycopg

from engine.money import to_units
from engine.reserves.attestation import Document
from engine.reserves.attested import Attested, PastCheckpoint, StoredReading
from engine.reserves.entries import ReserveEntry
from engine.store.postings import amount_text

SOURCE = "attestation"


@dataclass(frozen=True)
class Coverage:
    """An asset's liabilities and attested reserves."""

    asset: str
    liabilities: Decimal
    reserves: Decimal


def put_document(connection: psycopg.Connection, document: Document, at: datetime) -> bool:
    """Store a document as a reading; returns whether it is new.

    Args:
        connection: as the collector.
        document: checked.
        at: the instant that it is of.

    Raises:
        psycopg.Error: another document was stored for the same subject and instant.
    """
    raw = document.to_bytes()
    row = connection.execute(
        "INSERT INTO capture.readings (source, subject, at, raw) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (source, subject, at) DO NOTHING RETURNING reading_id",
        (SOURCE, document.subject, at, raw),
    ).fetchone()
    return row is not None


def stored_document(connection: psycopg.Connection, document: Document, at: datetime) -> bytes | None:
    """What is stored for a document's subject and instant."""
    row = connection.execute(
        "SELECT raw FROM capture.readings WHERE source = %s AND subject = %s AND at = %s",
        (SOURCE, document.subject, at),
    ).fetchone()
    return bytes(row[0]) if row else None


def readings(connection: psycopg.Connection, since: datetime, until: datetime) -> dict[str, list[StoredReading]]:
    """Captured documents between two instants: subject -> oldest first."""
    rows = connection.execute(
        "SELECT subject, reading_id, at, raw FROM capture.readings WHERE source = %s AND at BETWEEN %s AND %s"
        " ORDER BY at, reading_id",
        (SOURCE, since, until),
    )
    found: defaultdict[str, list[StoredReading]] = defaultdict(list)
    for subject, reading_id, at, raw in rows:
        found[str(subject)].append(StoredReading(int(reading_id), at, bytes(raw)))
    return dict(found)


def past_checkpoints(connection: psycopg.Connection, day: date) -> list[PastCheckpoint]:
    """The checkpoints that sealed the days before a date, of every version."""
    rows = connection.execute(
        "SELECT s.checkpoint, y.cutoff_at FROM close.seals s JOIN close.days y USING (close_date)"
        " WHERE s.log_index IS NOT NULL AND s.close_date < %s ORDER BY s.log_index",
        (day,),
    )
    return [PastCheckpoint(str(text), at) for text, at in rows]


def replace(
    connection: psycopg.Connection, day: date, epoch: int, found: Sequence[Attested], decimals: dict[str, int]
) -> int:
    """Write a day's attestations in place of those that were there; returns how many."""
    given = [
        {
            "asset": one.address.asset,
            "chain": one.address.chain,
            "address": one.address.address,
            "amount": amount_text(one.counted, decimals[one.address.asset]),
            "block_height": one.height,
            "block_hash": one.block_hash,
            "ownership": one.ownership,
            "stated": None if one.stated is None else amount_text(one.stated, decimals[one.address.asset]),
            "reason": one.reason,
            "readings": list(one.readings),
        }
        for one in found
    ]
    row = connection.execute(
        "SELECT reserves.replace_attestations(%s, %s, %s)", (day, epoch, json.dumps(given))
    ).fetchone()
    assert row is not None
    return int(row[0])


def entries(connection: psycopg.Connection, day: date, version: int) -> list[ReserveEntry]:
    """The manifest's entries of a day."""
    rows = connection.execute(
        "SELECT t.asset, t.chain, t.address, t.amount, t.block_height, t.block_hash, t.ownership, a.decimals"
        " FROM reserves.attestations t JOIN exchange.assets a USING (asset)"
        " WHERE t.close_date = %s AND t.version = %s",
        (day, version),
    )
    return [
        ReserveEntry(asset, chain, address, to_units(amount, places, record=address), height, block_hash, ownership)
        for asset, chain, address, amount, height, block_hash, ownership, places in rows
    ]


def uncounted(connection: psycopg.Connection, day: date, version: int) -> list[tuple[str, str, str, str]]:
    """Addresses that count zero: (asset, chain, address, why)."""
    rows = connection.execute(
        "SELECT asset, chain, address, reason FROM reserves.attestations WHERE close_date = %s AND version = %s"
        ' AND reason IS NOT NULL ORDER BY asset COLLATE "C", chain COLLATE "C", address COLLATE "C"',
        (day, version),
    )
    return [(str(a), str(c), str(x), str(why)) for a, c, x, why in rows]


def coverage(connection: psycopg.Connection, day: date, version: int) -> list[Coverage]:
    """Liabilities and attested reserves by asset."""
    rows = connection.execute(
        'SELECT asset, liabilities, reserves FROM reserves.coverage(%s, %s) ORDER BY asset COLLATE "C"', (day, version)
    )
    return [Coverage(str(asset), owed, held) for asset, owed, held in rows]
