"""Step `ledger_vs_custody`: every wallet's stored reading against the ledger's account of it, and what is in transit.

What belongs here: having the database judge. What does not: the comparison (see the schema), and readings.
"""

from __future__ import annotations

from engine.close.policy import LEDGER_VS_CUSTODY
from engine.steps import outside_gates
from engine.steps.context import Step, StepContext, StepOutput
from engine.store import readings
from engine.store.connect import Connection
from engine.store.days import Day


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """List what is in transit, then judge the gate."""
    if LEDGER_VS_CUSTODY in context.policy.required_gates:
        readings.list_in_transit(connection, context.close_date, context.epoch)
    return outside_gates.judged(connection, context, day, LEDGER_VS_CUSTODY)


STEP = Step(
    name="ledger_vs_custody",
    event_stage="recon",
    inputs=outside_gates.inputs,
    write=write,
    still_valid=outside_gates.still_valid,
    one_snapshot=True,
)
