"""The job of a day and its schedule.

What belongs here: those two. What does not: what the job runs (see `assets`, `checks`).
"""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from engine.clock import CutOffRule
from pipelines.partitions import cron_of

JOB_NAME = "daily_close_job"
BOOK_TAG = "compline/book"


def close_job() -> dg.UnresolvedAssetJobDefinition:
    """Everything that closes one date, checks included."""
    return dg.define_asset_job(
        JOB_NAME,
        selection=dg.AssetSelection.all(),
        description="Closes one date: one partition, one run.",
    )


def close_schedule(job: dg.UnresolvedAssetJobDefinition, rule: CutOffRule) -> dg.ScheduleDefinition:
    """Start the close of a date when it has ended; switched on by an operator."""

    @dg.schedule(
        job=job,
        name="close_at_cutoff",
        cron_schedule=cron_of(rule),
        execution_timezone=rule.zone,
        description="Closes each date at its cut-off.",
    )
    def close_at_cutoff(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        local = context.scheduled_execution_time.astimezone(ZoneInfo(rule.zone)).date()
        day = local - timedelta(days=1) if rule.hour == 24 else local
        return dg.RunRequest(run_key=f"close-{day}", partition_key=str(day))

    return close_at_cutoff
