"""A step past its limit is ended, wherever it hangs, and recorded as unknown."""

from __future__ import annotations

import time

import psycopg
import pytest

from engine.errors import StepTimeoutError
from engine.steps.context import Step, StepContext, StepOutput
from engine.steps.runner import run_step
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.closers import (
    policy_with,
    stats,
    with_readings,
)


def gone(book: BookUnderTest, name: str) -> None:
    """Wait until the server has missed a connection."""
    deadline = time.monotonic() + 10
    while stats(book, name):
        assert time.monotonic() < deadline, f"a backend of {name} is left"
        time.sleep(0.05)


@pytest.mark.parametrize("where", ["query", "computation"])
def test_step_past_its_limit_leaves_no_backend_and_is_recorded_as_unknown(make_book: MakeBook, where: str) -> None:
    book = with_readings(make_book(policy=policy_with(step_timeout_s=1)))
    day = book.days[0]

    def write(connection: psycopg.Connection, context: StepContext, day_: object) -> StepOutput:
        connection.execute("SELECT close.open_day(%s)", (day,))
        if where == "query":
            connection.execute("SELECT pg_sleep(30)")
        else:
            while True:
                sum(range(10_000))
        return StepOutput(1, "0" * 64)

    step = Step("mark_prices", "cutoff", lambda *_: {}, write, before_cutoff=True)  # type: ignore[arg-type]
    started = time.monotonic()
    with book.closing(day) as context, pytest.raises(StepTimeoutError):
        run_step(step, context)
    assert time.monotonic() - started < 20, "long before the query would have ended by itself"
    gone(book, "compline mark_prices")
    assert book.value("SELECT status FROM close.eod_runs WHERE step_name = 'mark_prices'") == "unknown"
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.cutoff.failed'") == 1
    # How long the others take is the machine's.
    assert book.close(day, policy=policy_with())[-1].status == "succeeded"


def test_hung_prepare_is_ended_by_the_alarm_too(make_book: MakeBook) -> None:
    book = with_readings(make_book(policy=policy_with(step_timeout_s=1)))
    day = book.days[0]

    def prepare(connection: psycopg.Connection, context: StepContext) -> None:
        connection.execute("SELECT pg_sleep(30)")

    step = Step("cutoff", "cutoff", lambda *_: {}, lambda *_: StepOutput(0, ""), prepare=prepare)  # type: ignore[arg-type]
    started = time.monotonic()
    with book.closing(day) as context, pytest.raises(StepTimeoutError):
        run_step(step, context)
    assert time.monotonic() - started < 20, "long before the query would have ended by itself"
    gone(book, "compline cutoff")
