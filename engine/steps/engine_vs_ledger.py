"""Step `engine_vs_ledger`: the engine's balances at the barrier against the ledger's at the cut-off.

What belongs here: having the database judge, and reading back the breaks for people.
What does not: the comparison (one join in the database, see `engine/store/migrations`).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.close.policy import ENGINE_VS_LEDGER
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days
from engine.store.breaks import open_breaks
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash: it covers both sides."""
    return {"books_sha256": day.books_sha256, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Judge the gate; breaks freeze their users in the same transaction."""
    verdict = days.judge(connection, context.close_date, ENGINE_VS_LEDGER, context.epoch)
    breaks = open_breaks(connection, context.close_date, ENGINE_VS_LEDGER)
    facts = [one.as_dict() for one in breaks]
    gates = {g.gate: g for g in days.gates(connection, context.close_date)}
    waiver = gates[ENGINE_VS_LEDGER].waiver
    return StepOutput(
        len(breaks),
        sha256_jcs({"books_sha256": day.books_sha256, "breaks": facts, "verdict": verdict}),
        {"verdict": verdict, "waiver": waiver, "breaks": facts[:20], "break_count": len(breaks)},
        # The verdict stays what it is; under a waiver the run goes on, and the seal asks again.
        verdict if waiver is None else None,
    )


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """A pass stands while the day is past it; a voided hash moved it back."""
    return day.state in ("reconciled", "sealed")


STEP = Step(
    name="engine_vs_ledger",
    event_stage="recon",
    completes=True,
    inputs=inputs,
    write=write,
    still_valid=still_valid,
    one_snapshot=True,
)
