"""Step `control_totals`: the trial balance, the books hash, and the gates that read the books alone.

What belongs here: closing the books of the day: from here on verdicts are written for their hash.
What does not: the sums and the hash themselves (the database computes both, see `engine/store/migrations`).
"""

from __future__ import annotations

from datetime import timedelta

from engine.close.policy import DEBITS_EQUAL_CREDITS, FEE_CLEARING_SWEPT, MARKS_FRESH, REWARDS_AS_ACCRUED
from engine.steps.context import FAIL, PASS, UNKNOWN, Inputs, Step, StepContext, StepOutput
from engine.store import days, moves, runs
from engine.store.connect import Connection
from engine.store.days import Day

_BEFORE = (
    "cutoff",
    "engine_balances",
    "mark_prices",
    "wallet_balances",
    "staking_totals",
    "custody_movements",
    "fee_accruals",
    "reward_accruals",
)
_GATES = (DEBITS_EQUAL_CREDITS, FEE_CLEARING_SWEPT, MARKS_FRESH, REWARDS_AS_ACCRUED)


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """What the steps before wrote, and the books that the day rolls forward from."""
    done = runs.of_day(connection, context.close_date, day.version)
    before = days.read(connection, context.close_date - timedelta(days=1))
    return {
        "opening_books_sha256": before.books_sha256 if before else None,
        **{name: done[name].output_digest if name in done else None for name in _BEFORE},
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the totals, fix the hash, judge the gates of the books."""
    fixed = moves.fix_books(connection, context.close_date, context.epoch)
    verdicts = {
        gate: days.judge(connection, context.close_date, gate, context.epoch)
        for gate in _GATES
        if gate in context.policy.required_gates
    }
    waived = {g.gate: g.waiver for g in days.gates(connection, context.close_date) if g.waiver and g.gate in verdicts}
    facts = {"books_sha256": fixed.books_sha256, "verdicts": verdicts, **({"waivers": waived} if waived else {})}
    # The verdicts stay what they are; under a waiver the run goes on, and the seal asks again.
    held = worst({gate: verdict for gate, verdict in verdicts.items() if gate not in waived})
    return StepOutput(fixed.rows, fixed.books_sha256, facts, held)


def worst(verdicts: dict[str, str]) -> str:
    """One verdict for several: a failure before an unknown before a pass."""
    return next((v for v in (FAIL, UNKNOWN) if v in verdicts.values()), PASS)


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """The totals stand while the day's books hash is the one they fixed."""
    return day.books_sha256 is not None and day.books_sha256 == output


STEP = Step(name="control_totals", event_stage="snapshot", inputs=inputs, write=write, still_valid=still_valid)
