"""Step `staking_vs_chain`: what the staking contracts hold against what users have staked in the ledger.

What belongs here: having the database judge. What does not: the comparison (see the schema), and readings.
"""

from __future__ import annotations

from engine.close.policy import STAKING_VS_CHAIN
from engine.steps import outside_gates
from engine.steps.context import Step, StepContext, StepOutput
from engine.store.connect import Connection
from engine.store.days import Day


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Judge the gate."""
    return outside_gates.judged(connection, context, day, STAKING_VS_CHAIN)


STEP = Step(
    name="staking_vs_chain",
    event_stage="recon",
    inputs=outside_gates.inputs,
    write=write,
    still_valid=outside_gates.still_valid,
    one_snapshot=True,
)
