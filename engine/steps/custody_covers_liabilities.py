"""Step `custody_covers_liabilities`: what custody holds against what customers and others are owed, per asset.

What belongs here: having the database judge. What does not: the comparison (see the schema), and readings.
"""

from __future__ import annotations

from engine.close.policy import CUSTODY_COVERS_LIABILITIES
from engine.steps import outside_gates
from engine.steps.context import Step, StepContext, StepOutput
from engine.store.connect import Connection
from engine.store.days import Day


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Judge the gate."""
    return outside_gates.judged(connection, context, day, CUSTODY_COVERS_LIABILITIES)


STEP = Step(
    name="custody_covers_liabilities",
    event_stage="recon",
    inputs=outside_gates.inputs,
    write=write,
    still_valid=outside_gates.still_valid,
    one_snapshot=True,
)
