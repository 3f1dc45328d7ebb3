"""Opening an account: with who its user is, screened in the same transaction.

What belongs here: opening, recording names and addresses, and comparing them before any of it is committed.
What does not: what opens an account (see `engine.service.kyc` and the command line), comparing, and what a hit does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from engine.accounts.kyc import Opening
from engine.steps.screening import Screened, screen_user
from engine.store import accounts, books, screening
from engine.store.connect import Connection


@dataclass(frozen=True)
class Onboarded:
    """What came of an opening.

    Attributes:
        user_id: the account's number.
        made: whether it is new.
        screened: what each list of the policy said; None where nothing was said of who the user is, or the policy
            names no list.
    """

    user_id: int
    made: bool
    screened: tuple[Screened, ...] | None

    @property
    def hits(self) -> int | None:
        """How many hits are new; None where nothing was compared."""
        return None if self.screened is None else sum(len(one.hits) for one in self.screened)


def onboard(connection: Connection, opening: Opening, *, by: str, at: datetime) -> Onboarded:
    """Open an account and say who its user is; the same again changes nothing.

    Args:
        connection: inside the caller's transaction.
        opening: what was asked for.
        by: who says so.
        at: the present.

    Raises:
        UncheckedError: a list of the policy is missing, stale or unreadable, so that nobody can be named and let in.
        InputError: a name or address is none; its text is not in the message.
    """
    user_id, made = accounts.onboard(connection, opening.account, opening.number)
    if not opening.names and not opening.addresses:
        return Onboarded(user_id, made, None)
    screening.record_person(connection, user_id, opening.names, opening.addresses, by)
    policy = books.policy_on(connection, max(at.date(), books.require(connection).first_day))
    if not policy.screening_lists:
        return Onboarded(user_id, made, None)
    return Onboarded(user_id, made, tuple(screen_user(connection, policy, user_id, at)))
