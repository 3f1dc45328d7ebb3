"""Step `volume_30d`: what every user traded in the 30 close dates that end with this one.

What belongs here: having the window written.
What does not: the sums (one statement in the database), and fee tiers (they join with positions).
"""

from __future__ import annotations

from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import positions
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier and the policy: the day's trades are those settled before it."""
    return {"barrier_seq": day.barrier_seq, "policy_sha256": context.policy.sha256, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the windows.

    Raises:
        UncheckedError: a trade's quote asset had no price in the reporting currency yet.
    """
    written = positions.write_volumes(connection, context.close_date, day.version, context.epoch)
    return StepOutput(
        written.rows,
        written.digest,
        {"day_volume": text_of(written.day_volume), "reporting_currency": context.policy.reporting_currency},
    )


STEP = Step(name="volume_30d", event_stage="volume", completes=True, inputs=inputs, write=write)
