"""Who was given a user's own key when.

What belongs here: asking the database for leave. What does not: the key, which no database sees (see `reserves.keys`).
"""

from __future__ import annotations

import psycopg


def give(connection: psycopg.Connection, account: str, key_epoch: int, reason: str | None) -> int:
    """Record that a key is given, in the caller's transaction; returns which time it is.

    Raises:
        GateError: it was given before, and no reason is named.
        InputError: there is no such customer account.
    """
    row = connection.execute("SELECT reserves.give_user_key(%s, %s, %s)", (account, key_epoch, reason)).fetchone()
    assert row is not None
    return int(row[0])
