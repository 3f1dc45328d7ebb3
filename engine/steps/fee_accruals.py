"""Step `fee_accruals`: sweep the day's fees from clearing into income, once per user, asset and role.

What belongs here: what was charged, what is booked already, and posting the difference.
What does not: charging fees (the engine does, per trade).
"""

from __future__ import annotations

from collections import defaultdict

from engine.canonical import row_hash, sha256_jcs, table_digest
from engine.clock import to_us
from engine.ledger.journal import FEE_CLEARING, FEE_INCOME, Journal, Leg
from engine.money import from_units, text_of, to_units
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import postings
from engine.store.connect import Connection
from engine.store.days import Day
from engine.store.fees import booked, charged, replace_fee_accruals


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier: the day's trades are those settled before it."""
    return {"barrier_seq": day.barrier_seq, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Post the difference between what was charged and what was swept before."""
    assert day.cutoff_at is not None
    lines = charged(connection, context.close_date)
    decimals = {line.asset: line.decimals for line in lines}
    replace_fee_accruals(connection, context.close_date, day.version, context.epoch, lines)
    swept, sweep = booked(connection, context.close_date)
    decimals |= {asset: places for (_, asset, _), (_, places) in swept.items()}
    wanted = {
        (line.account, line.asset, line.role): to_units(line.amount, line.decimals, record="fee") for line in lines
    }
    journals = []
    for key in sorted(wanted.keys() | swept.keys()):
        account, asset, role = key
        units = wanted.get(key, 0) - swept.get(key, (0, 0))[0]
        if units:
            journals.append(_sweep(context, day, account, asset, role, units, sweep + 1))
    postings.post(
        connection, journals, decimals=decimals, actor=f"close {context.run_id}", known={}, epoch=context.epoch
    )
    totals: defaultdict[str, int] = defaultdict(int)
    for (_, asset, _), units in wanted.items():
        totals[asset] += units
    digest = table_digest(row_hash((line.account, line.asset, line.role, text_of(line.amount))) for line in lines)
    return StepOutput(
        len(lines),
        sha256_jcs({"fees": digest}),
        {
            "journals": len(journals),
            "income": {asset: text_of(from_units(units, decimals[asset])) for asset, units in sorted(totals.items())},
        },
    )


def _sweep(context: StepContext, day: Day, account: str, asset: str, role: str, units: int, sweep: int) -> Journal:
    assert day.cutoff_at is not None
    return Journal(
        kind="fee_accrual",
        reference_type="fee_accrual",
        reference_id=f"{context.close_date}:{account}:{asset}:{role}:{sweep}",
        engine_seq=None,
        effective_us=to_us(day.cutoff_at) - 1,
        close_date=context.close_date,
        origin="close",
        reason=f"{role} fees of {account}",
        legs=(Leg(FEE_CLEARING, asset, -units), Leg(FEE_INCOME, asset, units)),
    )


STEP = Step(name="fee_accruals", event_stage="fees", completes=True, inputs=inputs, write=write)
