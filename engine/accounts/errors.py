"""What accounts refuse, by kind.

What belongs here: the errors of the lifecycle, named so that a caller can tell a lost race from a forbidden thing.
What does not: the texts (the database writes them) and the SQLSTATE of each (see `engine.store.connect`).
"""

from __future__ import annotations

from engine.errors import ComplineError, InputError


class ForbiddenTransitionError(ComplineError):
    """No row of the matrix allows this change of state by this authority (exit 1)."""


class VersionConflictError(ComplineError):
    """The account moved on since it was read: read it again and decide anew (exit 75)."""

    exit_code = 75


class NotYetError(ComplineError):
    """The matrix allows it, the account's reviews, holds or balances do not yet (exit 1)."""


class IllFormedTransitionError(InputError):
    """A reason or an actor is missing, or the time is not one (exit 65)."""


class KycEventRefusedError(InputError):
    """An event of the identity provider is of nobody, dated ahead, or another than its delivery was (exit 65)."""


class HoldRefusedError(ComplineError):
    """A hold or closure request is not in the state that this needs (exit 1)."""
