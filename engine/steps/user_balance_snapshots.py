"""Step `user_balance_snapshots`: what every user had at the cut-off and what it was worth.

What belongs here: having the snapshot written for the books hash in force.
What does not: its rows (one statement in the database, see `engine/store/migrations`).
"""

from __future__ import annotations

import psycopg

from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store.days import Day


def inputs(connection: psycopg.Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash: it covers the engine's balances and the marks."""
    return {"books_sha256": day.books_sha256, "version": day.version}


def write(connection: psycopg.Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the snapshot."""
    row = connection.execute(
        "SELECT close.write_user_balance_snapshots(%s, %s)", (context.close_date, context.epoch)
    ).fetchone()
    facts = connection.execute(
        "SELECT close.table_digest(array_agg(row_hash)), coalesce(sum(value), 0), count(DISTINCT account)"
        " FROM close.user_balance_snapshots WHERE close_date = %s AND version = %s",
        (context.close_date, day.version),
    ).fetchone()
    assert row is not None
    assert facts is not None
    return StepOutput(
        int(row[0]),
        str(facts[0]),
        {
            "users": facts[2],
            "value": text_of(facts[1]),
            "reporting_currency": context.policy.reporting_currency,
        },
    )


STEP = Step(name="user_balance_snapshots", event_stage="snapshot", completes=True, inputs=inputs, write=write)
