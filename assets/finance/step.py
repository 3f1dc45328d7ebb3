"""Step `finance`: the marts of a sealed day, built and tested by dbt, recorded in their own row.

What belongs here: when dbt runs, what it is asked to build, and what its results mean.
What does not: invoking dbt (see `invoke`). Nothing here changes the day: it is sealed.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Any

import psycopg

from assets.finance.database import FinanceDatabase, columns_of_relations, digest_of, mart_rows, open_connection
from assets.finance.invoke import MARTS_AND_TESTS, NodeResult, build
from assets.finance.project import Mart, dbt_version, marts, project_digest, relation_names
from engine.errors import GateError
from engine.steps.context import FAIL, PASS, UNKNOWN, Inputs, Step, StepContext, StepOutput
from engine.store.days import Day

NAME = "finance"


def finance_step(database: FinanceDatabase) -> Step:
    """The step for one book.

    Args:
        database: dbt's login on it.
    """

    def inputs(connection: psycopg.Connection, context: StepContext, day: Day) -> Inputs:
        """The sealed books and the project that reads them.

        Raises:
            GateError: the day is not sealed.
        """
        if day.state != "sealed":
            raise GateError(
                f"{context.close_date} v{day.version} is {day.state}: there is nothing for finance to read",
                rule="only seals enter the marts",
                next_step=f"compline close run {context.close_date}",
            )
        return {"books_sha256": day.books_sha256, "version": day.version, "project": project_digest()}

    def write(connection: psycopg.Connection, context: StepContext, day: Day) -> StepOutput:
        """Build and test the marts; their failures are results, and recorded."""
        # One build of a book at a time, in all processes: dbt replaces views, and creates each table once.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('finance.dbt'))")
        with closing(open_connection(database)) as reader:
            there = columns_of_relations(reader)
            done = build(
                database,
                context.close_date,
                select=_selection(connection, there),
                full_refresh=_columns_changed(there),
                limit_s=context.policy.step_timeout_s,
            )
            standing = columns_of_relations(reader)
            held = {m.name: mart_rows(reader, m, context.close_date) for m in marts() if m.name in standing}
        return StepOutput(
            sum(rows for rows, _ in held.values()), digest_of(held), _metadata(done, held), _verdict(done)
        )

    def still_valid(connection: psycopg.Connection, context: StepContext, day: Day, output: str | None) -> bool:
        """The marts stand while they hold what was recorded."""
        with closing(open_connection(database)) as reader:
            there = columns_of_relations(reader)
            if any(mart.name not in there for mart in marts()):
                return False
            return digest_of({m.name: mart_rows(reader, m, context.close_date) for m in marts()}) == output

    return Step(NAME, NAME, inputs, write, still_valid=still_valid, after_seal=True)


def _selection(connection: psycopg.Connection, there: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """Marts and tests alone where this very project has built its views here before, else everything."""
    row = connection.execute(
        "SELECT metadata ->> 'project' FROM close.eod_runs WHERE step_name = %s AND status = 'succeeded'"
        " ORDER BY finished_at DESC LIMIT 1",
        (NAME,),
    ).fetchone()
    known = row is not None and row[0] == project_digest() and relation_names() <= there.keys()
    return MARTS_AND_TESTS if known else ()


def _columns_changed(there: dict[str, dict[str, str]]) -> bool:
    """Whether a mart stands with other columns than its contract has: only then are published days built anew."""
    return any(mart.name in there and there[mart.name] != _contract(mart) for mart in marts())


def _contract(mart: Mart) -> dict[str, str]:
    return {name: kind for name, kind, _ in mart.columns}


def _verdict(done: list[NodeResult]) -> str:
    if any(one.kind == "test" and one.status in ("fail", "warn") for one in done):
        return FAIL
    return PASS if all(one.fine for one in done) else UNKNOWN


def _metadata(done: list[NodeResult], held: dict[str, tuple[int, str]]) -> dict[str, Any]:
    nodes = [asdict(one) for one in done]
    return {
        "project": project_digest(),
        "dbt": dbt_version(),
        "models": [
            {"model": n["name"], "status": n["status"], "milliseconds": n["milliseconds"], "message": n["message"]}
            for n in nodes
            if n["kind"] == "model" and n["name"] in _names()
        ],
        "tests": [
            {key: n[key] for key in ("name", "model", "status", "failures", "milliseconds", "message")}
            for n in nodes
            if n["kind"] == "test"
        ],
        "broken": [f"{n.name}: {n.status}{f' ({n.message})' if n.message else ''}" for n in done if not n.fine],
        "rows": {name: rows for name, (rows, _) in held.items()},
    }


def _names() -> set[str]:
    return {mart.name for mart in marts()}
