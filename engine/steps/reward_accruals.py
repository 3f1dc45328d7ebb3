"""Step `reward_accruals`: what the day owes to stakers, booked as an expense; users are credited after the seal.

What belongs here: having the day accrued, and what an operator sees of it.
What does not: shares (one function in the database), crediting (a `reward` command each, asked for by the seal).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import staking
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier and the policy, the day's fees and marks, and yesterday's books."""
    return {
        "barrier_seq": day.barrier_seq,
        "policy_sha256": context.policy.sha256,
        "version": day.version,
        **staking.before(connection, context.close_date, day.version),
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write positions and rewards, and post the difference to what was booked before."""
    actor = f"close {context.run_id}"
    done = staking.accrue(connection, context.close_date, day.version, context.epoch, actor)
    pot = done.pot
    shown = (
        {
            "asset": pot.asset,
            "opening": text_of(pot.opening),
            "funded": text_of(pot.funded),
            "paid": text_of(pot.paid),
            "carried": text_of(pot.closing),
        }
        if pot
        else {}
    )
    return StepOutput(
        done.rows,
        sha256_jcs({"rewards": done.digest, "pot": shown}),
        {"journals": done.journals, "stakers": pot.stakers if pot else 0, "pot": shown},
    )


STEP = Step(name="reward_accruals", event_stage="staking", completes=True, inputs=inputs, write=write)
