"""Connections to a book's database, and its refusals as typed errors.

What belongs here: how a connection is set up, and the one mapping from SQLSTATE to our errors.
What does not: statements (each subject has its own file).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from engine.accounts.errors import (
    ForbiddenTransitionError,
    HoldRefusedError,
    IllFormedTransitionError,
    KycEventRefusedError,
    NotYetError,
    VersionConflictError,
)
from engine.errors import (
    ComplineError,
    ConfigError,
    ConflictError,
    GateError,
    InputError,
    LedgerRefusedError,
    StaleEpochError,
    StepTimeoutError,
    UncheckedError,
)

Connection = psycopg.Connection
"""What steps pass on to the store; they do not know the driver."""

_BY_STATE: dict[str, type[ComplineError]] = {
    "CL006": StaleEpochError,
    "CL007": GateError,
    "CL008": GateError,
    "CL009": GateError,
    "CL010": UncheckedError,
    "CL011": GateError,
    "CL012": GateError,
    "CL013": GateError,
    "CL014": ConfigError,
    "CL018": InputError,
    "CL019": ForbiddenTransitionError,
    "CL020": VersionConflictError,
    "CL021": IllFormedTransitionError,
    "CL022": NotYetError,
    "CL023": KycEventRefusedError,
    "CL024": HoldRefusedError,
    "CL025": GateError,
    "CL026": ConflictError,
    "CL027": LedgerRefusedError,
    "CL028": LedgerRefusedError,
    "CL029": UncheckedError,
    "CL035": UncheckedError,
    "CL036": LedgerRefusedError,
    "CL037": InputError,
    "CL030": GateError,
    "CL031": UncheckedError,
    "CL032": GateError,
    "CL045": GateError,
    "CL046": InputError,
    "CL047": UncheckedError,
    "23514": LedgerRefusedError,
    "40001": StaleEpochError,
    "57014": StepTimeoutError,
    "25P04": StepTimeoutError,
    "53100": UncheckedError,
}


def connect(
    url: str, *, autocommit: bool = False, application: str = "compline", limit_s: int = 0
) -> psycopg.Connection:
    """Open a connection to a book.

    Args:
        url: `postgresql://…`.
        autocommit: one statement, one transaction.
        application: the name that `pg_stat_activity` shows.
        limit_s: seconds after which Postgres ends any transaction of it, idle or running; 0 for no limit.

    Raises:
        UncheckedError: the server does not answer.
    """
    try:
        return psycopg.connect(
            url,
            autocommit=autocommit,
            application_name=application,
            connect_timeout=10,
            options="-c timezone=UTC -c client_connection_check_interval=1000 -c jit=off"
            f" -c transaction_timeout={limit_s}s",
        )
    except psycopg.OperationalError as error:
        raise unreachable(error) from None


def unreachable(error: psycopg.Error) -> UncheckedError:
    """A server that cannot be reached: nothing was checked."""
    said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return UncheckedError(
        f"the database cannot be reached: {said}",
        rule="a source that does not answer is UNKNOWN, never passed",
        next_step="compline doctor, then run the command again",
    )


def translate(error: psycopg.Error) -> ComplineError:
    """A database error as one of ours, with the database's own words."""
    state = error.sqlstate
    if isinstance(error, psycopg.OperationalError) and state not in _BY_STATE:
        return unreachable(error)
    diag = error.diag
    what = diag.message_primary or str(error)
    kind = _BY_STATE.get(state or "", LedgerRefusedError if (state or "").startswith("CL") else ComplineError)
    if state == "23514" and diag.constraint_name == "accounts_customer_not_negative":
        what = f"a customer balance would be negative: {diag.message_detail or what}"
    if kind is ComplineError:
        what = f"the database refused ({state}): {what}"
    return kind(what, rule=diag.constraint_name or "", next_step=diag.message_hint or "")


@contextmanager
def typed_errors() -> Iterator[None]:
    """Raise what the database refuses inside as our own errors."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error
