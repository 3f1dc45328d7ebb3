"""Step `user_balance_snapshots`: what every user had at the cut-off and what it was worth.

What belongs here: having the snapshot written for the books hash in force.
What does not: its rows (one statement in the database, see `engine/store/migrations`).
"""

from __future__ import annotations

from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import moves
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash: it covers the engine's balances and the marks."""
    return {"books_sha256": day.books_sha256, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the snapshot."""
    written = moves.write_snapshot(connection, context.close_date, day.version, context.epoch)
    return StepOutput(
        written.rows,
        written.digest,
        {
            "users": written.users,
            "value": text_of(written.value),
            "reporting_currency": context.policy.reporting_currency,
        },
    )


STEP = Step(name="user_balance_snapshots", event_stage="snapshot", completes=True, inputs=inputs, write=write)
