"""What comes with opening balances, in Postgres: lots and volumes, loaded whole and once.

What belongs here: loading them, and the digest that genesis is sealed over.
What does not: reading the file (see `engine.valuation.openings`), and the lots that days carry (see `lots`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import psycopg

from engine.errors import ConflictError, InputError
from engine.valuation.openings import Openings

_LOTS = "positions.opening_lots (user_id, asset, lot_no, acquired_on, quantity, cost)"
_VOLUMES = "positions.opening_volumes (user_id, close_date, volume)"


def sha256(connection: psycopg.Connection) -> str | None:
    """Digest over what was loaded; None where nothing was."""
    row = connection.execute("SELECT positions.openings_sha256()").fetchone()
    return str(row[0]) if row and row[0] is not None else None


def load(connection: psycopg.Connection, found: Openings, first_day: date) -> bool:
    """Load a file, in the caller's transaction; False where the very same is there already.

    Raises:
        InputError: it names an account that the book does not have.
        ConflictError: something else was loaded before.
        GateError: lots do not sum to the opening balances (the user is named), or genesis is sealed.
    """
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('positions.openings'))")
    users = {str(account): int(n) for n, account in connection.execute("SELECT user_id, account FROM accounts.users")}
    for account in (*(lot.account for lot in found.lots), *(volume.account for volume in found.volumes)):
        if account not in users:
            raise InputError(
                f"account {account[:80]!r} is not in the book",
                rule="lots and volumes are of accounts that the engine's journal opened before its first cut-off",
                next_step="correct the file; nothing of it was loaded",
            )
    lots = {(users[x.account], x.asset, x.lot_no, x.acquired_on, x.quantity, x.cost) for x in found.lots}
    volumes = {(users[x.account], x.date, x.volume) for x in found.volumes}
    there = _rows(connection, _LOTS), _rows(connection, _VOLUMES)
    if any(there):
        if there == (lots, volumes):
            return False
        raise ConflictError(
            f"other opening lots and volumes are loaded: {len(there[0])} lots, {len(there[1])} volumes",
            rule="what comes with opening balances is loaded whole, and once",
            next_step="correct what is wrong by forward commands, or make the book anew",
        )
    _copy(connection, _LOTS, sorted(lots))
    _copy(connection, _VOLUMES, sorted(volumes))
    connection.execute("SELECT positions.check_openings(%s)", (first_day - timedelta(days=1),))
    return True


def _rows(connection: psycopg.Connection, target: str) -> set[tuple[Any, ...]]:
    table, _, columns = target.partition(" ")
    return set(connection.execute(f"SELECT {columns.strip('()')} FROM {table}".encode()))


def _copy(connection: psycopg.Connection, target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with connection.cursor().copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)
