"""Step `fee_accruals`: sweep the day's fees from clearing into income, once per user, asset and role.

What belongs here: having the day swept, and what an operator sees of it.
What does not: charging fees (the engine does, per trade), and the sweep (one function in the database).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import fees
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier: the day's trades are those settled before it."""
    return {"barrier_seq": day.barrier_seq, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Post the difference between what was charged and what was swept before."""
    swept = fees.sweep(connection, context.close_date, day.version, context.epoch, f"close {context.run_id}")
    income = {asset: text_of(amount) for asset, amount in swept.income.items()}
    return StepOutput(swept.rows, sha256_jcs({"fees": swept.digest}), {"journals": swept.journals, "income": income})


STEP = Step(name="fee_accruals", event_stage="fees", completes=True, inputs=inputs, write=write)
