"""Step `realized_pnl`: the gains that the day's disposals realised, and the identity of quantities judged.

What belongs here: having the gate judged, and the totals for people.
What does not: the rows (one run of the kernel writes them with the lots, see `lots`), and the gate (in the database).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.close.policy import QUANTITY_IDENTITY
from engine.money import text_of
from engine.steps import lots
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, runs
from engine.store import lots as store
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books and the rows that were booked from them."""
    run = runs.read(connection, context.close_date, "lots", day.version)
    return {"books_sha256": day.books_sha256, "version": day.version, "lots": run.output_digest if run else None}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Judge the gate."""
    if not context.policy.books_lots:
        return lots.NOT_KEPT
    verdict = days.judge(connection, context.close_date, QUANTITY_IDENTITY, context.epoch)
    columns = ("realized", "trading_pnl", "fees_value")
    rows, *sums = store.totals(connection, context.close_date, day.version, "realized_pnl", columns)
    facts = {name: text_of(value) for name, value in zip(columns, sums, strict=True)}
    output = sha256_jcs({**inputs(connection, context, day), "verdict": verdict})
    return StepOutput(
        rows,
        output,
        {**facts, "reporting_currency": context.policy.reporting_currency, "verdict": verdict},
        verdict,
    )


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """A verdict stands while it is there for the books hash in force."""
    return not context.policy.books_lots or any(
        gate.gate == QUANTITY_IDENTITY and gate.verdict == "pass" for gate in days.gates(connection, context.close_date)
    )


STEP = Step(name="realized_pnl", event_stage="pnl", inputs=inputs, write=write, still_valid=still_valid)
