"""The history of accounts, streamed for verification.

What belongs here: reading rows and rules in one snapshot.
What does not: what must hold (see `engine.accounts.history`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import psycopg

from engine.accounts.history import HistoryBrokenError, Rule, Verified, verify

_ISO = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
# In the order of an index of each table, so that nothing is sorted.
_ROWS = f"""COPY (SELECT coalesce(encode(h.prev_hash, 'hex'), ''), h.user_id, h.version, h.from_state, h.to_state,
    h.authority, h.actor, coalesce(h.second_approver, ''), h.reason, to_char(h.at AT TIME ZONE 'UTC', {_ISO}),
    to_char(h.recorded_at AT TIME ZONE 'UTC', {_ISO}), encode(h.row_hash, 'hex'),
    coalesce(u.version::text, ''), coalesce(u.state, '')
    FROM accounts.account_state_transitions h LEFT JOIN accounts.users u ON u.user_id = h.user_id
    ORDER BY h.user_id, h.version) TO STDOUT"""


def verify_history(connection: psycopg.Connection) -> Verified:
    """Recompute every hash from its row, and compare every chain's head with its account.

    Args:
        connection: outside a transaction.

    Raises:
        HistoryBrokenError: at the first row that does not hold.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SET LOCAL enable_hashjoin = off")
        found = verify_in(connection)
        missing = connection.execute(
            "SELECT u.user_id FROM accounts.users u WHERE NOT EXISTS (SELECT FROM accounts.account_state_transitions h"
            " WHERE h.user_id = u.user_id) ORDER BY 1 LIMIT 1"
        ).fetchone()
        if missing is not None:
            raise HistoryBrokenError(str(missing[0]), "1", "the account has no history")
        return found


def verify_in(connection: psycopg.Connection) -> Verified:
    """Verify the rows that the transaction under way sees.

    Raises:
        HistoryBrokenError: at the first row that does not hold.
    """
    allowed = rules(connection)
    # Closed at the first bad row: the traceback would keep the COPY open, and nothing could be asked beside it.
    with closing(_lines(connection)) as lines:
        return verify(lines, allowed)


def rules(connection: psycopg.Connection) -> dict[Rule, bool]:
    """The matrix, and which of its rows need a second person."""
    rows = connection.execute(
        "SELECT from_state, to_state, authority, needs_second_approver FROM accounts.allowed_transitions"
    )
    return {(str(row[0]), str(row[1]), str(row[2])): bool(row[3]) for row in rows}


def _lines(connection: psycopg.Connection) -> Generator[bytes, None, None]:
    with connection.cursor() as cursor, cursor.copy(_ROWS.encode()) as copy:
        for block in copy:
            yield bytes(block)
