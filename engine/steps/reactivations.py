"""Step `reactivations`: suspended users whom a new review cleared are active again; closures whose days are over end.

What belongs here: asking the database for both. What does not: who is cleared (rows and triggers of the database).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import accounts
from engine.store.connect import Connection
from engine.store.days import Day

ACTOR = "close"


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """Whom it would reactivate, and whose days are over."""
    return {"version": day.version, "due": accounts.due_at_close(connection)}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Reactivate and end, each by its own transition."""
    active = accounts.reactivate_cleared(connection, ACTOR)
    ended = accounts.finish_closures(connection, ACTOR)
    closed = [user for user, outcome in ended if outcome == "closed"]
    facts = {
        "reactivated": len(active),
        "closed": len(closed),
        "closures_waiting": [{"user": user, "why": outcome} for user, outcome in ended if outcome != "closed"],
    }
    digest = sha256_jcs({"active": [list(pair) for pair in active], "closed": closed})
    return StepOutput(len(active) + len(closed), digest, facts)


STEP = Step(name="reactivations", event_stage="recon", inputs=inputs, write=write)
