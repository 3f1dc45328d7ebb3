"""One REPEATABLE READ snapshot: all that a transaction reads is of one instant.

What belongs here: having work done in such a transaction, and again where another transaction changed what it writes.
What does not: the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg

from engine.errors import UncheckedError

_ATTEMPTS = 5

Result = TypeVar("Result")


def in_one_snapshot(connection: psycopg.Connection, what: str, work: Callable[[], Result]) -> Result:
    """Do work that opens one transaction; in a new one where somebody changed a row that it wants to write.

    Args:
        connection: outside a transaction.
        what: named where it cannot be done.
        work: writes nothing but in its transaction, and begins by checking whether it still may.

    Raises:
        UncheckedError: others were in the way at every attempt; nothing was written.
    """
    before = connection.isolation_level
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work()
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                if attempt == _ATTEMPTS:
                    raise UncheckedError(
                        f"{what} met changes of others {_ATTEMPTS} times",
                        rule="sources are compared in one snapshot",
                        next_step="nothing was written: run it again once who works on its breaks is done",
                    ) from error
        raise AssertionError
    finally:
        if not connection.closed:
            connection.isolation_level = before
