"""Accounts: what stands, and the doors by which it changes.

What belongs here: calling the database's functions on accounts, and reading what they keep.
What does not: the rules (rows and triggers of the database), sanctions lists and adjustments (each has its own file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from engine.accounts.matrix import Matrix, StateRow, TransitionRow
from engine.clock import iso_us
from engine.errors import InputError
from engine.money import text_of

LIFE = ("pending_kyc", "kyc_rejected", "kyc_approved", "active", "suspended", "restricted", "banned", "closed")
"""The order in which states are shown."""


@dataclass(frozen=True)
class User:
    """An account as it stands."""

    user_id: int
    account: str
    state: str
    version: int
    may_trade: bool
    may_withdraw: bool


def find(connection: psycopg.Connection, who: str) -> User:
    """A user by name or number.

    Raises:
        InputError: there is none.
    """
    number = int(who) if who.isdecimal() and len(who) < 19 else None
    row = connection.execute(
        "SELECT user_id, account, state, version, accounts.may_trade(user_id), accounts.may_withdraw(user_id)"
        " FROM accounts.users WHERE account = %(who)s OR user_id = %(number)s ORDER BY account = %(who)s DESC LIMIT 1",
        {"who": who, "number": number},
    ).fetchone()
    if row is None:
        raise InputError(f"there is no user {who}", next_step="compline accounts list")
    return User(*row)


def list_users(connection: psycopg.Connection, state: str | None, limit: int) -> list[User]:
    """Users of a state, or of all, by number."""
    rows = connection.execute(
        "SELECT user_id, account, state, version, accounts.may_trade(user_id), accounts.may_withdraw(user_id)"
        " FROM accounts.users WHERE %(state)s::text IS NULL OR state = %(state)s ORDER BY user_id LIMIT %(limit)s",
        {"state": state, "limit": limit},
    )
    return [User(*row) for row in rows]


def counts(connection: psycopg.Connection) -> dict[str, int]:
    """How many users are in each of the eight states."""
    rows = connection.execute(
        "SELECT s.state, count(u.user_id) FROM accounts.states s LEFT JOIN accounts.users u USING (state) GROUP BY 1"
        " ORDER BY 1"
    )
    return {str(row[0]): int(row[1]) for row in rows}


def matrix(connection: psycopg.Connection) -> Matrix:
    """The states and the transitions between them, as the database enforces them."""
    states = connection.execute("SELECT state, may_trade, may_withdraw, may_receive, meaning FROM accounts.states")
    found = {str(row[0]): StateRow(*row) for row in states}
    rows = connection.execute(
        "SELECT from_state, to_state, authority, needs_reason, needs_second_approver FROM accounts.allowed_transitions"
    )
    order = [name for name in LIFE if name in found] + sorted(found.keys() - set(LIFE))
    return Matrix([found[name] for name in order], [TransitionRow(*row) for row in rows])


def details(connection: psycopg.Connection, user_id: int) -> dict[str, list[dict[str, Any]]]:
    """History, holds, obligations, KYC events and closure requests of a user, oldest first, JSON-ready."""
    queries = {
        "history": "SELECT version, from_state, to_state, authority, actor, second_approver, reason, at, recorded_at,"
        " encode(row_hash, 'hex') AS row_hash FROM accounts.account_state_transitions WHERE user_id = %s"
        " ORDER BY version",
        "holds": "SELECT hold_id, kind, reference, reason, opened_by, opened_second, opened_at, released_by,"
        " released_second, release_reason, released_at FROM accounts.holds WHERE user_id = %s ORDER BY hold_id",
        "obligations": "SELECT obligation_id, kind, cause, due_at, acknowledged_at, acknowledged_by, told_late_at"
        " FROM accounts.obligations WHERE user_id = %s ORDER BY obligation_id",
        "kyc_events": "SELECT provider, delivery_id, outcome, event_at, received_at, source, effect"
        " FROM accounts.kyc_events WHERE user_id = %s ORDER BY event_id",
        "closures": "SELECT closure_id, hold_id, requested_by, requested_at, ends_at, dust_consent, outcome, ended_by,"
        " ended_at FROM accounts.closures WHERE user_id = %s ORDER BY closure_id",
    }
    return {name: _rows(connection, query, user_id) for name, query in queries.items()}


def transition(
    connection: psycopg.Connection,
    user_id: int,
    to_state: str,
    *,
    authority: str,
    actor: str,
    reason: str = "",
    second: str | None = None,
    expected_version: int | None = None,
) -> int:
    """Change a user's state; history, event, obligations and requests to the engine are of the same transaction.

    Returns:
        The version that the account has now.

    Raises:
        psycopg.Error: refused; `engine.store.connect.translate` names it.
    """
    return _one(
        connection,
        "SELECT accounts.transition(%s, %s, %s, %s, %s, %s, %s)",
        user_id,
        to_state,
        authority,
        actor,
        reason,
        second,
        expected_version,
    )


def open_hold(
    connection: psycopg.Connection,
    user_id: int,
    kind: str,
    *,
    reference: str,
    reason: str,
    opener: str,
    second: str | None = None,
) -> int:
    """Open a hold, or find it open; returns its number."""
    return _one(
        connection,
        "SELECT accounts.open_hold(%s, %s, %s, %s, %s, %s)",
        user_id,
        kind,
        reference,
        reason,
        opener,
        second,
    )


def release_hold(connection: psycopg.Connection, hold_id: int, *, who: str, second: str | None, reason: str) -> None:
    """Release an open hold."""
    connection.execute("SELECT accounts.release_hold(%s, %s, %s, %s)", (hold_id, who, second, reason))


def require_may_withdraw(connection: psycopg.Connection, user_id: int) -> None:
    """The last look before coins leave, inside the transaction that broadcasts them.

    Raises:
        psycopg.Error: state or holds forbid it.
    """
    connection.execute("SELECT accounts.require_may_withdraw(%s)", (user_id,))


def sweep_obligations(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Tell what is late, each once; returns everything that is owed past its deadline."""
    return _rows(
        connection,
        "SELECT o.obligation_id, u.account, o.kind, o.cause, o.due_at, o.told_late_at"
        " FROM accounts.sweep_obligations() o JOIN accounts.users u USING (user_id) ORDER BY o.due_at",
    )


def owed(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Obligations that nobody has acknowledged, by deadline."""
    return _rows(
        connection,
        "SELECT o.obligation_id, u.account, o.kind, o.cause, o.due_at, o.told_late_at,"
        " o.due_at < clock_timestamp() AS late FROM accounts.obligations o JOIN accounts.users u USING (user_id)"
        " WHERE o.acknowledged_at IS NULL ORDER BY o.due_at",
    )


def unallocated(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Deposits that were for accounts whose state receives nothing, and the adjustments that gave them to someone."""
    return _rows(
        connection,
        "SELECT d.reference, u.account, d.asset, d.amount, d.engine_seq, d.state, d.noted_at, a.adjustment_id, a.status"
        " FROM accounts.unallocated_deposits d JOIN accounts.users u USING (user_id)"
        " LEFT JOIN accounts.adjustments a ON a.ticket = d.reference ORDER BY d.engine_seq",
    )


def reactivate_cleared(connection: psycopg.Connection, actor: str) -> list[tuple[int, int]]:
    """Reactivate suspended users whose new review allows it; returns user and version of each."""
    rows = connection.execute("SELECT user_id, version FROM accounts.reactivate_cleared(%s)", (actor,))
    return [(int(row[0]), int(row[1])) for row in rows]


def due_at_close(connection: psycopg.Connection) -> dict[str, list[int]]:
    """Suspended users with a newer approval, and users whose closure is due."""
    cleared = connection.execute(
        "SELECT u.user_id FROM accounts.users u JOIN accounts.account_state_transitions t"
        " ON t.user_id = u.user_id AND t.version = u.version WHERE u.state = 'suspended' AND EXISTS (SELECT FROM"
        " accounts.kyc_events k WHERE k.user_id = u.user_id AND k.outcome = 'approved' AND k.event_at > t.recorded_at)"
        " ORDER BY 1"
    ).fetchall()
    due = connection.execute(
        "SELECT user_id FROM accounts.closures WHERE ended_at IS NULL AND ends_at <= clock_timestamp() ORDER BY 1"
    ).fetchall()
    return {"cleared": [int(row[0]) for row in cleared], "closures": [int(row[0]) for row in due]}


def request_closure(connection: psycopg.Connection, user_id: int, *, actor: str, dust_consent: bool) -> int:
    """Open a closure request and its hold; returns its number."""
    return _one(connection, "SELECT accounts.request_closure(%s, %s, %s)", user_id, actor, dust_consent)


def reverse_closure(connection: psycopg.Connection, user_id: int, *, actor: str, reason: str) -> None:
    """Take a closure request back."""
    connection.execute("SELECT accounts.reverse_closure(%s, %s, %s)", (user_id, actor, reason))


def finish_closures(connection: psycopg.Connection, actor: str) -> list[tuple[int, str]]:
    """End the requests whose days are over; returns user and outcome of each."""
    rows = connection.execute("SELECT user_id, outcome FROM accounts.finish_closures(%s) ORDER BY 1", (actor,))
    return [(int(row[0]), str(row[1])) for row in rows]


def onboard(connection: psycopg.Connection, account: str, user_id: int | None = None) -> tuple[int, bool]:
    """Open an account that awaits its review; returns its number, and whether it is new."""
    row = connection.execute("SELECT user_id, made FROM accounts.onboard(%s, %s)", (account, user_id)).fetchone()
    assert row is not None
    return int(row[0]), bool(row[1])


def import_users(
    connection: psycopg.Connection, rows: Sequence[tuple[int, str, str]], *, source: str, actor: str
) -> int:
    """Bring users over from a table of the old three values, all or none; returns how many are new.

    Args:
        connection: as the database's owner.
        rows: number, name and old status of each.
        source: what the table was.
        actor: who imports.
    """
    numbers, names, statuses = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return _one(connection, "SELECT accounts.import_users(%s, %s, %s, %s, %s)", numbers, names, statuses, source, actor)


def _one(connection: psycopg.Connection, query: str, *args: object) -> int:
    row = connection.execute(query.encode(), args).fetchone()
    assert row is not None
    return int(row[0])


def _rows(connection: psycopg.Connection, query: str, *args: object) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query.encode(), args or None).fetchall()
    return [{name: _plain(value) for name, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso_us(value)
    return text_of(value) if type(value).__name__ == "Decimal" else value
