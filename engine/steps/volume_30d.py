"""Step `volume_30d`: what every user traded in the 30 close dates that end with this one.

What belongs here: having the window written and the engine asked for the tiers that it changes.
What does not: the sums (one statement in the database), and applying tiers (the engine does, from its sequence on).
"""

from __future__ import annotations

from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import positions
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier and the policy, the marks that conversion reads, and yesterday's window."""
    return {
        "barrier_seq": day.barrier_seq,
        "policy_sha256": context.policy.sha256,
        "version": day.version,
        **positions.before(connection, context.close_date),
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the windows.

    Raises:
        UncheckedError: a trade's quote asset had no fresh price in the reporting currency; it is named.
    """
    written = positions.write_volumes(connection, context.close_date, day.version, context.epoch)
    return StepOutput(
        written.rows,
        written.digest,
        {
            "day_volume": text_of(written.day_volume),
            "reporting_currency": context.policy.reporting_currency,
            "users_by_tier": {str(tier): many for tier, many in written.tiers.items()},
            "rates_asked": written.rates_asked,
            "users_asked": written.users_asked,
        },
    )


STEP = Step(name="volume_30d", event_stage="volume", completes=True, inputs=inputs, write=write)
