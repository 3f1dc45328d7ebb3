"""Runs of steps and the events they leave: `close.eod_runs` and `events.outbox`.

What belongs here: reading and writing those two tables.
What does not: deciding whether a step must run (see `engine.steps.runner`), and publishing (see `engine.events`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg


@dataclass(frozen=True)
class StepRun:
    """The last attempt of a step of a day's version.

    Attributes:
        status: `succeeded`, `failed` (it does not hold) or `unknown` (it could not be checked).
        input_digest: what it read; equal inputs make the next run a no-op.
        output_digest: what it wrote.
    """

    close_date: date
    step_name: str
    version: int
    attempt: int
    epoch: int
    status: str
    input_digest: str | None
    output_digest: str | None
    row_count: int | None
    metadata: dict[str, Any]
    error: str | None
    run_id: str
    started_at: datetime
    finished_at: datetime


_COLUMNS = (
    "close_date, step_name, version, attempt, epoch, status, input_digest, output_digest, row_count, metadata, error,"
    " run_id, started_at, finished_at"
)


def read(connection: psycopg.Connection, day: date, step: str, version: int) -> StepRun | None:
    """The last attempt of one step."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM close.eod_runs WHERE close_date = %s AND step_name = %s AND version = %s".encode(),
        (day, step, version),
    ).fetchone()
    return StepRun(*row) if row else None


def of_day(connection: psycopg.Connection, day: date, version: int) -> dict[str, StepRun]:
    """The last attempt of every step of a day's version, by step name."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM close.eod_runs WHERE close_date = %s AND version = %s".encode(), (day, version)
    )
    return {run.step_name: run for run in (StepRun(*row) for row in rows)}


def write(connection: psycopg.Connection, run: StepRun) -> None:
    """Record an attempt; the attempt number counts up by itself."""
    connection.execute(
        f"INSERT INTO close.eod_runs AS r ({_COLUMNS})"
        " VALUES (%s, %s, %s, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (close_date, step_name, version) DO UPDATE SET attempt = r.attempt + 1, epoch = excluded.epoch,"
        " status = excluded.status, input_digest = excluded.input_digest, output_digest = excluded.output_digest,"
        " row_count = excluded.row_count, metadata = excluded.metadata, error = excluded.error,"
        " run_id = excluded.run_id, started_at = excluded.started_at, finished_at = excluded.finished_at".encode(),
        (
            run.close_date,
            run.step_name,
            run.version,
            run.epoch,
            run.status,
            run.input_digest,
            run.output_digest,
            run.row_count,
            json.dumps(run.metadata),
            run.error,
            run.run_id,
            run.started_at,
            run.finished_at,
        ),
    )


def put_event(connection: psycopg.Connection, key: str, subject: str, payload: dict[str, Any]) -> None:
    """Leave an event in the outbox; the same key again changes nothing."""
    connection.execute(
        "INSERT INTO events.outbox (event_key, subject, payload) VALUES (%s, %s, %s)"
        " ON CONFLICT (event_key) DO NOTHING",
        (key, subject, json.dumps(payload)),
    )
