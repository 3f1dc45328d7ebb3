"""Sensors: failures that a step could not tell itself, and the outbox relay.

What belongs here: four sensors, each writing to the outbox under the key that the step would have used.
What does not: the events of a step (they are written in its own transaction).
"""

from __future__ import annotations

from contextlib import closing

import dagster as dg

from engine.clock import parse_close_date
from engine.errors import ComplineError
from engine.events.relay import relay
from engine.steps.plan import STEPS
from engine.steps.runner import event_key
from engine.store import runs
from engine.store.accounts import sweep_obligations
from engine.store.connect import connect, typed_errors
from pipelines.books import open_book
from pipelines.jobs import BOOK_TAG
from pipelines.settings import Settings

PARTITION_TAG = "dagster/partition"
_STAGES = {step.name: step.event_stage for step in STEPS} | {"finance": "finance"}


def book_of(run: dg.DagsterRun) -> str | None:
    """The book that a run closes: by its tag, or by the code location that it was launched from."""
    if BOOK_TAG in run.tags:
        return run.tags[BOOK_TAG]
    origin = run.remote_job_origin
    return origin.repository_origin.code_location_origin.location_name if origin else None


def _step_of(key: dg.AssetKey) -> str:
    """The step that a check's asset definition runs; all marts are one step."""
    return "finance" if key.path[0] == "finance" else key.path[-1]


def build_sensors(settings: Settings, book: str) -> list[dg.SensorDefinition]:
    """The sensors of a code location."""

    def tell(run: dg.DagsterRun, name: str, what: str) -> None:
        day = parse_close_date(run.tags.get(PARTITION_TAG, ""))
        step = name if name in _STAGES else "cutoff"
        subject = f"eod.{_STAGES[step]}.failed"
        payload = {"book": book, "close_date": str(day), "step": step, "run_id": run.run_id, "detail": what[:2000]}
        opened = open_book(settings, book, talk=lambda line: None)
        with closing(connect(opened.url)) as connection, typed_errors(), connection.transaction():
            runs.put_event(connection, event_key(subject, day, step, run.run_id), subject, payload)

    @dg.run_failure_sensor(
        name="run_failed",
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes eod.<stage>.failed for a run that ended red, also one started from the command line.",
    )
    def run_failed(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        if PARTITION_TAG not in run.tags or book_of(run) != book:
            return
        failed = [event.step_key or "" for event in context.get_step_failure_events()]
        names = [key.split("__")[-1] for key in failed] or ["cutoff"]
        tell(run, names[0], context.failure_event.message or "the run failed")

    @dg.sensor(
        name="check_failed",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes eod.<stage>.failed for every asset check that did not pass.",
    )
    def check_failed(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        after = int(context.cursor) if context.cursor else 0
        found = context.instance.event_log_storage.get_event_records(
            dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after),
            limit=200,
            ascending=True,
        )
        told = 0
        for record in found:
            entry = record.event_log_entry
            evaluation = entry.dagster_event.asset_check_evaluation_data if entry.dagster_event else None
            run = context.instance.get_run_by_id(entry.run_id)
            if (
                evaluation is not None
                and not evaluation.passed
                and run is not None
                and PARTITION_TAG in run.tags
                and book_of(run) == book
            ):
                tell(run, _step_of(evaluation.asset_key), f"check {evaluation.check_name} did not pass")
                told += 1
            context.update_cursor(str(record.storage_id))
        return dg.SkipReason(f"{told} failed checks told, {len(found)} read")

    @dg.sensor(
        name="outbox_relay",
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes what the outbox holds on NATS.",
    )
    def outbox_relay(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        opened = open_book(settings, book, talk=lambda line: None)
        try:
            return dg.SkipReason(f"{relay(opened.url, opened.servers.nats_url)} events published")
        except ComplineError as error:
            return dg.SkipReason(str(error))

    @dg.sensor(
        name="obligations_overdue",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes account.obligation.overdue, once each, for what was not acknowledged by its deadline.",
    )
    def obligations_overdue(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        opened = open_book(settings, book, talk=lambda line: None)
        with closing(connect(opened.url, autocommit=True)) as connection, typed_errors(), connection.transaction():
            return dg.SkipReason(f"{len(sweep_obligations(connection))} obligations are owed past their deadline")

    return [run_failed, check_failed, outbox_relay, obligations_overdue]
