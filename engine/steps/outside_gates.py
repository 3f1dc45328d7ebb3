"""What the steps that compare the books with the outside share: judging a gate that a policy may not name.

What belongs here: that, and the breaks for people. What does not: the comparisons (functions of the schema).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.steps.context import Inputs, StepContext, StepOutput
from engine.store import days
from engine.store.breaks import open_breaks
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash: it covers the ledger and the readings; and the policy, which may not name the gate."""
    return {"books_sha256": day.books_sha256, "policy_sha256": context.policy.sha256, "version": day.version}


def judged(connection: Connection, context: StepContext, day: Day, gate: str) -> StepOutput:
    """Have the database judge a gate; where the policy does not name it, say so and judge nothing."""
    if gate not in context.policy.required_gates:
        facts = {"verdict": "not judged: the policy in force names no such source"}
        return StepOutput(0, sha256_jcs(facts), facts)
    verdict = days.judge(connection, context.close_date, gate, context.epoch)
    breaks = open_breaks(connection, context.close_date, gate)
    shown = [one.as_dict() for one in breaks]
    found = next(g for g in days.gates(connection, context.close_date) if g.gate == gate)
    unread = found.detail.get("unread")
    return StepOutput(
        len(breaks),
        sha256_jcs({"books_sha256": day.books_sha256, "breaks": shown, "verdict": verdict}),
        {
            "verdict": verdict,
            "waiver": found.waiver,
            "breaks": shown[:20],
            "break_count": len(breaks),
            **({"unread": unread, "what": found.detail.get("what")} if unread else {}),
        },
        verdict if found.waiver is None else None,
    )


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """A verdict stands while the day is past it; a voided hash moved it back."""
    return day.state in ("reconciled", "sealed")
