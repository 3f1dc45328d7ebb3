"""Seals: the signed manifests of sealed days.

What belongs here: reading and inserting rows of `close.seals`. The database's trigger decides whether one may stand.
What does not: making a manifest (see `engine.steps.seals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import psycopg


@dataclass(frozen=True)
class Seal:
    """The seal of one close date and version; genesis has no place in the log.

    Attributes:
        manifest: canonical JSON, as signed.
        signature: hex.
        checkpoint: of the log that ends with this manifest.
    """

    close_date: date
    version: int
    kind: str
    books_sha256: str
    manifest: str
    signature: str
    key_id: str
    snapshot_root: str | None
    log_index: int | None
    checkpoint: str | None
    sealed_at: datetime | None = None


_COLUMNS = "close_date, version, kind, books_sha256, manifest, signature, key_id, snapshot_root, log_index, checkpoint"


def insert(connection: psycopg.Connection, seal: Seal) -> None:
    """Seal a day; refused by the database unless everything it asks for stands."""
    connection.execute(
        f"INSERT INTO close.seals ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)".encode(),
        (
            seal.close_date,
            seal.version,
            seal.kind,
            seal.books_sha256,
            seal.manifest,
            seal.signature,
            seal.key_id,
            seal.snapshot_root,
            seal.log_index,
            seal.checkpoint,
        ),
    )


def read(connection: psycopg.Connection, day: date, version: int | None = None) -> Seal | None:
    """The seal of a date: of a version, or the newest."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, sealed_at FROM close.seals WHERE close_date = %s AND (%s::int IS NULL OR version = %s)"
        " ORDER BY version DESC LIMIT 1".encode(),
        (day, version, version),
    ).fetchone()
    return Seal(*row) if row else None


def last_checkpoint(connection: psycopg.Connection) -> str | None:
    """The checkpoint of the log as it is, none while it is empty."""
    row = connection.execute(
        "SELECT checkpoint FROM close.seals WHERE log_index IS NOT NULL ORDER BY log_index DESC LIMIT 1"
    ).fetchone()
    return str(row[0]) if row else None


def last_key_id(connection: psycopg.Connection) -> str | None:
    """The manifest key of the newest entry of the log."""
    row = connection.execute(
        "SELECT key_id FROM close.seals WHERE log_index IS NOT NULL ORDER BY log_index DESC LIMIT 1"
    ).fetchone()
    return str(row[0]) if row else None


def last_log_index(connection: psycopg.Connection, day: date) -> int | None:
    """The log index of the newest sealed version of a date."""
    row = connection.execute("SELECT max(log_index) FROM close.seals WHERE close_date = %s", (day,)).fetchone()
    return int(row[0]) if row and row[0] is not None else None
