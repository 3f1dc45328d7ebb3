"""Events of the identity provider, taken once.

What belongs here: handing one to the database. What does not: where it came from, and what it does (the database's).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg

from engine.errors import InputError


@dataclass(frozen=True)
class KycEvent:
    """What a provider says of a user.

    Attributes:
        provider: who says it.
        delivery: its id of this message: one effect.
        user_id: whom it is about.
        outcome: `approved`, `rejected`, or `pending` for a new submission.
        at: when it was decided there.
        payload_sha256: of what came.
        source: `webhook`, `nats` or `cli`.
    """

    provider: str
    delivery: str
    user_id: int
    outcome: str
    at: datetime
    payload_sha256: str
    source: str


def take(connection: psycopg.Connection, event: KycEvent) -> str:
    """Take an event; returns its effect, `duplicate` for a delivery that is known."""
    row = connection.execute(
        "SELECT accounts.take_kyc_event(%s, %s, %s, %s, %s, %s, %s)",
        (
            event.provider,
            event.delivery,
            event.user_id,
            event.outcome,
            event.at,
            event.payload_sha256,
            event.source,
        ),
    ).fetchone()
    assert row is not None
    return str(row[0])


def number_of(connection: psycopg.Connection, account: str) -> int:
    """The number of an account.

    Raises:
        InputError: there is none of this name.
    """
    row = connection.execute("SELECT user_id FROM accounts.users WHERE account = %s", (account,)).fetchone()
    if row is None:
        raise InputError(f"there is no user {account}", next_step="onboard the user first")
    return int(row[0])
