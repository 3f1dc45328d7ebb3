"""Running the suites on a book: an ephemeral context, no file, no telemetry, no connection left.

What belongs here: Great Expectations' machinery, and its results as plain records.
What does not: what is expected (see `gx_suites`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

from checks.gx_outside import outside_captures
from checks.gx_suites import Capture, Rule, captures
from engine.errors import UncheckedError

OPTIONS = "-c timezone=UTC -c jit=off -c enable_nestloop=off"
"""Tables that were just filled have no statistics: taken for one row each, they would be joined row by row."""
SHOWN = 20
"""At most so many failing rows of a rule are read and shown."""


@dataclass(frozen=True)
class Finding:
    """An expectation that is not met.

    Attributes:
        table: of the capture.
        rule: what should hold.
        rows: how many rows do not; -1 where it could not be checked.
        sample: the first of them, as text.
        why: what stopped it from being checked.
    """

    table: str
    rule: str
    rows: int
    sample: tuple[dict[str, str], ...] = ()
    why: str = ""

    @property
    def said(self) -> str:
        """The finding in a sentence."""
        if self.why:
            return f"{self.rule}: could not be checked ({self.why})"
        return f"{self.rule}: {self.rows} rows do not"

    def as_row(self) -> dict[str, str]:
        """For a table."""
        return {"table": self.table, "rule": self.rule, "rows": "unknown" if self.why else str(self.rows)}


def validate_day(url: str, day: date, version: int) -> tuple[int, list[Finding]]:
    """Hold the captured inputs of a day against their expectations.

    Args:
        url: SQLAlchemy's, as the application.
        day: close date.
        version: of the day.

    Returns:
        How many expectations there were, and those that are not met.

    Raises:
        UncheckedError: the database does not answer.
    """
    checked, findings = 0, []
    with _source(url) as (source, engine):
        wanted = captures(day, version)
        if _names_outside(engine, day):
            wanted += outside_captures(day, version)
        for capture in wanted:
            count, found = _validate(source, engine, capture)
            checked += count
            findings += found
    return checked, findings


def _names_outside(engine: Any, day: date) -> bool:
    """Whether the policy of a day names wallets or contracts; a book without them pays nothing for their suites."""
    import sqlalchemy as sa

    named = sa.text(
        "SELECT coalesce(jsonb_array_length(policy -> 'custody_wallets'), 0)"
        " + coalesce(jsonb_array_length(policy -> 'staking_contracts'), 0) FROM close.policy_on(:d)"
    )
    with engine.connect() as connection:
        return bool(connection.execute(named, {"d": day}).scalar())


@contextmanager
def _source(url: str) -> Iterator[tuple[Any, Any]]:
    # Read when the package is imported: set before, or it asks its maker's server.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import sqlalchemy as sa

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    marked = sa.make_url(url).update_query_dict({"application_name": "compline gx"})
    # `$` would be read as a variable of Great Expectations' own.
    text = marked.render_as_string(hide_password=False).replace("$", "%24")
    kwargs = {"connect_args": {"connect_timeout": 10, "options": OPTIONS}}
    try:
        source = context.data_sources.add_postgres("book", connection_string=text, kwargs=kwargs)
        engine = source.get_engine()
        with engine.connect():
            pass
    except Exception as error:
        raise UncheckedError(
            f"the captured inputs cannot be read: {type(error).__name__}",
            rule="a source that does not answer is UNKNOWN, never passed",
            next_step="compline doctor, then run the check again",
        ) from error
    try:
        yield source, engine
    finally:
        # The source has one pool, what validates has another: nothing outlives the check.
        engine.dispose()
        source.get_execution_engine().engine.dispose()


def _validate(source: Any, engine: Any, capture: Capture) -> tuple[int, list[Finding]]:
    import great_expectations as gx
    import sqlalchemy as sa

    with engine.connect() as connection:
        least, most = connection.execute(sa.text(capture.count)).one()
    asset = source.add_query_asset(capture.table, query=capture.rows)
    batch = asset.add_batch_definition_whole_table("day").get_batch()
    by_query = {rule.query: rule for rule in capture.rules}
    suite = gx.ExpectationSuite(
        capture.table,
        expectations=[
            gx.expectations.ExpectTableRowCountToBeBetween(min_value=int(least), max_value=int(most)),
            *capture.expectations(gx.expectations),
            *(gx.expectations.UnexpectedRowsExpectation(unexpected_rows_query=query) for query in by_query),
        ],
    )
    answer = batch.validate(
        suite,
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": SHOWN,
            "unexpected_index_column_names": list(capture.key),
        },
    )
    broken = [one for one in answer.results if not one.success]
    return len(answer.results), [_finding(batch, capture, by_query, one) for one in broken]


def _finding(batch: Any, capture: Capture, by_query: dict[str, Rule], one: Any) -> Finding:
    kwargs = one.expectation_config.kwargs
    query = kwargs.get("unexpected_rows_query")
    rule = by_query[query].name if query else _name(one.expectation_config.type, kwargs)
    why = _exception(one.exception_info)
    if why:
        return Finding(capture.table, rule, -1, why=why)
    if query:
        return Finding(capture.table, rule, int(one.result["observed_value"]), _rows(batch, query))
    if "min_value" in kwargs:
        return Finding(capture.table, rule, int(one.result["observed_value"]))
    listed = one.result.get("partial_unexpected_index_list") or one.result.get("partial_unexpected_list") or []
    sample = tuple(_as_text(row if isinstance(row, dict) else {"value": row}) for row in listed[:SHOWN])
    return Finding(capture.table, rule, int(one.result["unexpected_count"]), sample)


def _rows(batch: Any, query: str) -> tuple[dict[str, str], ...]:
    import great_expectations as gx

    again = batch.validate(
        gx.expectations.UnexpectedRowsExpectation(unexpected_rows_query=f"{query} LIMIT {SHOWN}"),
        result_format="COMPLETE",
    )
    found = (again.result.get("details") or {}).get("unexpected_rows") or []
    return tuple(_as_text(dict(row)) for row in found[:SHOWN])


def _name(kind: str, kwargs: Any) -> str:
    if "min_value" in kwargs:
        least, most = kwargs["min_value"], kwargs["max_value"]
        return f"there are {least} rows" if least == most else f"there are {least} to {most} rows"
    return f"{kwargs['column']} to {kind.removeprefix('expect_column_values_to_').replace('_', ' ')}"


def _exception(info: Any) -> str:
    """What stopped an expectation, from either form in which it is reported; empty where nothing did."""
    entries = info.values() if info and "raised_exception" not in info else [info or {}]
    for entry in entries:
        if isinstance(entry, dict) and entry.get("raised_exception"):
            return " ".join(str(entry.get("exception_message") or "unexpected error").split())[:300]
    return ""


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    return {str(name): "" if value is None else str(value) for name, value in row.items()}
