"""Run one step of a day: its rows, its run record and its event commit together or not at all.

What belongs here: the one transaction around every step, idempotency by digest, the fence, and recording failures.
What does not: what a step does (one file each beside this one).
"""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import datetime
from typing import Any

from engine import clock
from engine.canonical import sha256_jcs
from engine.clock import CloseDate
from engine.errors import ComplineError, GateError, StaleEpochError, StepTimeoutError, UncheckedError
from engine.steps.context import FAIL, UNKNOWN, Step, StepContext, StepOutput, StepResult
from engine.store import days, moves, runs
from engine.store.connect import Connection, connect, typed_errors
from engine.store.days import Day
from engine.store.deadline import deadline
from engine.store.one_snapshot import in_one_snapshot

_STATUS = {None: "succeeded", "pass": "succeeded", FAIL: "failed", UNKNOWN: "unknown"}


def run_step(step: Step, context: StepContext) -> StepResult:
    """Run a step once, or find that it need not run.

    Returns:
        How the step stands. A failed gate is a result, not an error: its breaks and verdict were committed.

    Raises:
        ComplineError: it could not be done; nothing of it was written but its failed run record.
    """
    started = clock.now()
    what = f"step {step.name} of {context.close_date}"
    try:
        limit_s = context.policy.step_timeout_s
        # The limit is the session's: what `prepare` commits on its own, such as settlement, must not hang either.
        with (
            typed_errors(),
            closing(connect(context.url, application=f"compline {step.name}", limit_s=limit_s)) as connection,
            deadline(connection, limit_s, what),
        ):
            if step.prepare is not None:
                step.prepare(connection, context)

            def work() -> StepResult:
                with connection.transaction():
                    moves.limit(connection, limit_s)
                    return _in_transaction(connection, step, context, started)

            return in_one_snapshot(connection, what, work) if step.one_snapshot else work()
    except StaleEpochError:
        raise
    except ComplineError as failure:
        _record_failure(step, context, started, failure)
        raise
    except Exception as error:
        unexpected = UncheckedError(
            f"{what} stopped on an unexpected {type(error).__name__}: {error}",
            rule="what was not computed is not passed",
            next_step="the run's log has the trace; nothing was written, so run it again after the fix",
        )
        _record_failure(step, context, started, unexpected)
        raise unexpected from error


def require_day(connection: Connection, context: StepContext) -> Day:
    """The day being closed.

    Raises:
        GateError: the book has no such day yet.
    """
    day = days.read(connection, context.close_date)
    if day is None:
        raise GateError(
            f"{context.close_date} is not open in book {context.book.name}",
            rule="a day opens with its first settled event or with its predecessor's cut-off",
            next_step="import its events, or close its predecessor",
        )
    return day


def _in_transaction(connection: Connection, step: Step, context: StepContext, started: datetime) -> StepResult:
    day = require_day(connection, context)
    # What follows the seal asks for the seal itself.
    if day.state in ("open", "reopened") and not (step.before_cutoff or step.after_seal):
        raise GateError(
            f"{context.close_date} is not cut off: step {step.name} has no day to work on",
            rule="what is part of a day is known at its barrier",
            next_step=f"compline close run {context.close_date}",
        )
    before = runs.read(connection, context.close_date, step.name, day.version)
    if day.state == "sealed" and not step.after_seal:
        return _unchanged(step, context, day, before)
    digest = sha256_jcs(step.inputs(connection, context, day))
    fresh = before is not None and before.status == "succeeded" and before.input_digest == digest
    if fresh and not (step.captures and context.recapture):
        assert before is not None
        if step.still_valid(connection, context, day, before.output_digest):
            return _unchanged(step, context, day, before)
    if step.one_snapshot:
        # Under a snapshot the lease's row must not change: locked first, its renewal waits for the end.
        moves.fence(connection, context.close_date, context.epoch)
    output = step.write(connection, context, day)
    status = _STATUS[output.verdict]
    runs.write(connection, _run(step, context, day, started, status, digest, output, None))
    key = output.output_digest if status == "succeeded" else context.run_id
    _put_event(connection, step, context, day, status, key, output.metadata)
    moves.fence(connection, context.close_date, context.epoch)
    return StepResult(
        step.name, context.close_date, day.version, status, False, output.rows, output.output_digest, output.metadata
    )


def _unchanged(step: Step, context: StepContext, day: Day, before: runs.StepRun | None) -> StepResult:
    if before is None:
        raise GateError(
            f"{context.close_date} is sealed and step {step.name} never ran for version {day.version}",
            rule="a sealed day changes only by reopening it",
            next_step="compline close status",
        )
    return StepResult(
        step.name,
        context.close_date,
        day.version,
        before.status,
        True,
        before.row_count or 0,
        before.output_digest,
        before.metadata,
    )


def _run(
    step: Step,
    context: StepContext,
    day: Day,
    started: datetime,
    status: str,
    input_digest: str | None,
    output: StepOutput | None,
    error: str | None,
) -> runs.StepRun:
    return runs.StepRun(
        close_date=context.close_date,
        step_name=step.name,
        version=day.version,
        attempt=1,
        epoch=context.epoch,
        status=status,
        input_digest=input_digest,
        output_digest=output.output_digest if output else None,
        row_count=output.rows if output else None,
        metadata=output.metadata if output else {},
        error=error,
        run_id=context.run_id,
        started_at=started,
        finished_at=clock.now(),
    )


def _put_event(
    connection: Connection,
    step: Step,
    context: StepContext,
    day: Day,
    status: str,
    key: str,
    facts: dict[str, Any],
) -> None:
    if status == "succeeded" and not step.completes:
        return
    subject = f"eod.{step.event_stage}.{'completed' if status == 'succeeded' else 'failed'}"
    payload = {
        "book": context.book.name,
        "close_date": str(context.close_date),
        "version": day.version,
        "step": step.name,
        "status": status,
        "run_id": context.run_id,
        **({} if status == "succeeded" else {"detail": facts}),
    }
    runs.put_event(connection, event_key(subject, context.close_date, step.name, key), subject, payload)


def event_key(subject: str, close_date: CloseDate, step: str, key: str) -> str:
    """The outbox key of a step's event: a failure's `key` is its run, so that a sensor tells it under the same one."""
    return f"{subject}:{close_date}:{step}:{key}"


def _record_failure(step: Step, context: StepContext, started: datetime, failure: ComplineError) -> None:
    """Leave the failure in `close.eod_runs` and the outbox; a database that is away cannot be told."""
    status = "unknown" if isinstance(failure, UncheckedError | StepTimeoutError) else "failed"
    with (
        suppress(ComplineError),
        typed_errors(),
        closing(connect(context.url)) as connection,
        connection.transaction(),
    ):
        day = days.read(connection, context.close_date)
        if day is None or (day.state == "sealed" and not step.after_seal):
            return
        runs.write(connection, _run(step, context, day, started, status, None, None, str(failure)))
        _put_event(connection, step, context, day, status, context.run_id, failure.as_dict())
        moves.fence(connection, context.close_date, context.epoch)
