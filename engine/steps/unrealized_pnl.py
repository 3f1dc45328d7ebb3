"""Step `unrealized_pnl`: what is held at the closing marks, and the identity of values judged.

What belongs here: having the positions valued and the gate judged.
What does not: both of them (the database does, see `engine/store/migrations`).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.close.policy import VALUE_IDENTITY
from engine.money import text_of
from engine.steps import lots
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, runs
from engine.store import lots as store
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books, the lots of the day, and what the day before left."""
    run = runs.read(connection, context.close_date, "lots", day.version)
    return {
        "books_sha256": day.books_sha256,
        "version": day.version,
        "lots": run.output_digest if run else None,
        "opening": lots.opening_digest(connection, context),
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Value the positions, judge the gate.

    Raises:
        UncheckedError: an asset held has no closing mark; names it.
    """
    if not context.policy.books_lots:
        return lots.NOT_KEPT
    store.write_unrealized(connection, context.close_date, context.epoch)
    verdict = days.judge(connection, context.close_date, VALUE_IDENTITY, context.epoch)
    columns = ("value", "cost", "unrealized")
    rows, *sums = store.totals(connection, context.close_date, day.version, "unrealized_pnl", columns)
    facts = {name: text_of(value) for name, value in zip(columns, sums, strict=True)}
    # Everything that the rows follow from; reading them all back would cost what writing them did.
    marks = store.marks_digest(connection, context.close_date, day.version)
    digest = sha256_jcs({**inputs(connection, context, day), "books_sha256": None, "marks": marks})
    return StepOutput(
        rows, digest, {**facts, "reporting_currency": context.policy.reporting_currency, "verdict": verdict}, verdict
    )


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """A verdict stands while it is there for the books hash in force."""
    return not context.policy.books_lots or any(
        gate.gate == VALUE_IDENTITY and gate.verdict == "pass" for gate in days.gates(connection, context.close_date)
    )


STEP = Step(
    name="unrealized_pnl", event_stage="pnl", completes=True, inputs=inputs, write=write, still_valid=still_valid
)
