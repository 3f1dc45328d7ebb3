"""Readings of outside sources: stored raw and immutable, and what a close took from them.

What belongs here: `capture.readings`, and the rows of custody and chain that a close writes from them.
What does not: fetching and reading them (see `engine.gateways`), and comparing (the gates of the schema).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

import psycopg

from engine.store.postings import copy_rows

REMOVED = "~removed"
"""Ends the name of a line that takes an earlier one back."""


@dataclass(frozen=True)
class StoredReading:
    """One reading: which source, whose, when it was taken, and its bytes."""

    reading_id: int
    at: datetime
    sha256: str
    raw: bytes


@dataclass(frozen=True)
class Sealed:
    """The reading that the sealed version of a date was closed on, and the date's window."""

    version: int
    opening: datetime | None
    cutoff: datetime
    raw: bytes


@dataclass(frozen=True)
class Transfer:
    """One line of a wallet's list, as stored; amounts in the asset's units."""

    transfer: str
    reference: str
    amount: Decimal
    fee: Decimal
    confirmed: bool
    at: datetime


@dataclass(frozen=True)
class Movement:
    """An amount between a wallet's account and another house account."""

    kind: str
    key: str
    wallet: str
    asset: str
    amount: Decimal
    sweep: int = 0


def store(connection: psycopg.Connection, source: str, subject: str, at: datetime, raw: bytes) -> None:
    """Store a reading; one of the same source, subject and instant stays as it is."""
    connection.execute(
        "INSERT INTO capture.readings (source, subject, at, raw) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (source, subject, at, raw),
    )


def newest(connection: psycopg.Connection, source: str, subject: str) -> StoredReading | None:
    """The newest reading of a subject; none where nobody collected it."""
    row = connection.execute(
        "SELECT reading_id, at, sha256, raw FROM capture.readings WHERE source = %s AND subject = %s"
        " ORDER BY at DESC LIMIT 1",
        (source, subject),
    ).fetchone()
    return StoredReading(int(row[0]), row[1], str(row[2]), bytes(row[3])) if row else None


def sealed_on(connection: psycopg.Connection, day: date, source: str, subject: str) -> Sealed | None:
    """The reading that a sealed date was closed on; none where it is not sealed, or the subject was not read."""
    row = connection.execute("SELECT * FROM capture.sealed_reading(%s, %s, %s)", (day, source, subject)).fetchone()
    return Sealed(int(row[0]), row[1], row[2], bytes(row[3])) if row else None


def tell_changed(connection: psycopg.Connection, day: date, source: str, subject: str, what: str) -> None:
    """Leave an event that a later reading differs from the one that a date was sealed on; the same is told once."""
    digest = hashlib.sha256(what.encode()).hexdigest()
    connection.execute("SELECT capture.tell_changed(%s, %s, %s, %s, %s)", (day, source, subject, digest, what))


def replace(connection: psycopg.Connection, day: date, epoch: int) -> None:
    """Make room for the readings of a date; its books hash is void from here on."""
    connection.execute("SELECT close.replace_readings(%s, %s)", (day, epoch))


def replace_chain(connection: psycopg.Connection, day: date, epoch: int) -> None:
    """Make room for the chain's readings of a date."""
    connection.execute("SELECT chain.replace_totals(%s, %s)", (day, epoch))


def wallet_before(connection: psycopg.Connection, day: date, wallet: str, asset: str) -> Decimal | None:
    """What a wallet held at the cut-off before; none where it was not read."""
    row = connection.execute(
        "SELECT b.balance FROM custody.wallet_balances b JOIN close.days y USING (close_date, version)"
        " WHERE b.close_date = %s AND b.wallet = %s AND b.asset = %s",
        (day - timedelta(days=1), wallet, asset),
    ).fetchone()
    return row[0] if row else None


def known_transfers(
    connection: psycopg.Connection, day: date, wallet: str, asset: str, since: date
) -> dict[str, Transfer]:
    """Lines that earlier dates took as confirmed and that were not taken back, by transfer."""
    rows = connection.execute(
        "SELECT t.transfer, t.reference, t.amount, t.fee, t.confirmed, t.at FROM custody.transfers t"
        " JOIN close.days y USING (close_date, version) WHERE t.close_date < %s AND t.close_date >= %s"
        " AND t.wallet = %s AND t.asset = %s AND t.confirmed ORDER BY t.close_date",
        (day, since, wallet, asset),
    )
    found: dict[str, Transfer] = {}
    for row in rows:
        one = Transfer(*row)
        name = one.transfer.removesuffix(REMOVED)
        if name != one.transfer:
            found.pop(name, None)
        else:
            found[name] = one
    return found


def put_wallet(
    connection: psycopg.Connection,
    day: date,
    version: int,
    wallet: str,
    asset: str,
    balance: Decimal,
    reading: StoredReading,
    transfers: Sequence[Transfer],
) -> None:
    """Write what a reading says of a wallet."""
    connection.execute(
        "INSERT INTO custody.wallet_balances (close_date, version, wallet, asset, balance, reading_id)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (day, version, wallet, asset, balance, reading.reading_id),
    )
    copy_rows(
        connection,
        "custody.transfers (close_date, version, wallet, asset, transfer, reference, amount, fee, confirmed, at,"
        " reading_id)",
        (
            (
                day,
                version,
                wallet,
                asset,
                t.transfer,
                t.reference,
                t.amount,
                t.fee,
                t.confirmed,
                t.at,
                reading.reading_id,
            )
            for t in transfers
        ),
    )


def put_unread(connection: psycopg.Connection, day: date, version: int, source: str, subject: str, why: str) -> None:
    """Write why a source could not be used."""
    connection.execute(
        "INSERT INTO custody.unread (close_date, version, source, subject, why) VALUES (%s, %s, %s, %s, %s)",
        (day, version, source, subject, why[:500]),
    )


def put_staking(
    connection: psycopg.Connection,
    day: date,
    version: int,
    contract: str,
    asset: str,
    total: Decimal,
    height: int,
    block_hash: str,
    reading: StoredReading,
) -> None:
    """Write what a reading says of a staking contract."""
    connection.execute(
        "INSERT INTO chain.staking_totals (close_date, version, contract, asset, total, block_height, block_hash,"
        " reading_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (day, version, contract, asset, total, height, block_hash, reading.reading_id),
    )


def movements(connection: psycopg.Connection, day: date, version: int) -> tuple[list[Movement], list[Movement]]:
    """What the day's lines should have moved between house accounts, and what was booked of it before."""
    due = connection.execute(
        "SELECT kind, key, wallet, asset, amount FROM custody.movements_due(%s, %s)", (day, version)
    )
    made = connection.execute("SELECT kind, key, wallet, asset, amount, k FROM custody.movements_booked(%s)", (day,))
    return [Movement(*row) for row in due], [Movement(*row) for row in made]


def list_in_transit(connection: psycopg.Connection, day: date, epoch: int) -> int:
    """List what custody and the ledger do not agree on at the cut-off; returns how many references."""
    row = connection.execute("SELECT custody.write_in_transit(%s, %s)", (day, epoch)).fetchone()
    assert row is not None
    return int(row[0])
