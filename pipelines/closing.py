"""Closing days from a process of our own: Dagster's job without its daemon, seen in its UI afterwards.

What belongs here: running the job for a date, and reading from the database how the day stands.
What does not: the command line (see `cli`). What a day is worth is never taken from Dagster: the rows decide.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import psutil

from engine.errors import ComplineError
from engine.store import days, runs, seals
from engine.store.connect import connect, typed_errors
from engine.store.days import Gate
from engine.store.runs import StepRun
from pipelines import dagster_home
from pipelines.books import OpenBook, Talk
from pipelines.garbage import look_seldom

HOST_TAG = "compline/host"
PID_TAG = "compline/pid"


@dataclass(frozen=True)
class DayReport:
    """How a day stands, from the rows.

    Attributes:
        volume: in the reporting currency at closing marks; None while there are no marks.
        steps: last attempts by step name.
        seconds: of the steps' last attempts.
    """

    close_date: date
    version: int
    state: str
    trades: int
    journals: int
    volume: Decimal | None
    fees: dict[str, str]
    gates: list[Gate]
    books_sha256: str | None
    snapshot_root: str | None
    log_index: int | None
    steps: dict[str, StepRun]

    @property
    def seconds(self) -> float:
        """How long the steps' last attempts took."""
        return sum((run.finished_at - run.started_at).total_seconds() for run in self.steps.values())

    @property
    def exit_code(self) -> int:
        """0 sealed and told, 1 something does not hold, 2 something could not be checked."""
        statuses = {run.status for run in self.steps.values()}
        if "failed" in statuses or any(g.verdict == "fail" and not g.stands for g in self.gates):
            return 1
        return 0 if self.state == "sealed" and "unknown" not in statuses else 2


def report_of(opened: OpenBook, day: date) -> DayReport | None:
    """How a day stands; None where it is not open yet."""
    with closing(connect(opened.url)) as connection, typed_errors():
        there = days.read(connection, day)
        if there is None:
            return None
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM exchange.trades WHERE close_date = %(d)s),"
            " (SELECT count(*) FROM ledger.journals WHERE close_date = %(d)s),"
            " (SELECT sum(t.quote_quantity * m.price) FROM exchange.trades t JOIN exchange.markets k USING (market)"
            " LEFT JOIN market.mark_prices m ON m.asset = k.quote AND m.close_date = t.close_date AND m.version = %(v)s"
            " WHERE t.close_date = %(d)s)",
            {"d": day, "v": there.version},
        ).fetchone()
        assert counts is not None
        steps = runs.of_day(connection, day, there.version)
        seal = seals.read(connection, day, there.version)
        fees = steps["fee_accruals"].metadata.get("income", {}) if "fee_accruals" in steps else {}
        return DayReport(
            close_date=day,
            version=there.version,
            state=there.state,
            trades=counts[0],
            journals=counts[1],
            volume=counts[2],
            fees=fees,
            gates=days.gates(connection, day),
            books_sha256=there.books_sha256,
            snapshot_root=seal.snapshot_root if seal else None,
            log_index=seal.log_index if seal else None,
            steps=steps,
        )


AFTER_SEAL = ("inclusion_proofs", "evidence_packs", "finance")
"""Steps that follow the seal; a sealed day is done when they have succeeded too."""


def is_done(opened: OpenBook, report: DayReport) -> bool:
    """Whether nothing is left to do for a day: sealed, its marts built, its evidence on this machine."""
    folder = opened.files.evidence_dir / opened.book.name / f"{report.close_date}-v{report.version}"
    after = [report.steps.get(name) for name in AFTER_SEAL]
    return (
        report.state == "sealed"
        and all(run is not None and run.status == "succeeded" for run in after)
        and (folder / "manifest.json").exists()
        and (folder / "shards" / "index.json").exists()
    )


class Closer:
    """Runs the job of a book, one date at a time, in this process; Dagster is loaded once.

    Args:
        opened: the book.
        talk: called with a line for a person.
    """

    def __init__(self, opened: OpenBook, *, talk: Talk) -> None:
        self.opened = opened
        self.talk = talk
        self.split: dict[str, float] = {}
        started = time.perf_counter()
        look_seldom()
        dagster_home.prepare(opened.settings, opened.servers)
        logging.getLogger("dagster").setLevel(logging.CRITICAL)
        import dagster as dg

        from pipelines.definitions import build_defs
        from pipelines.jobs import JOB_NAME

        self.split["import"] = time.perf_counter() - started
        started = time.perf_counter()
        self._instance = dg.DagsterInstance.get()
        self._end_abandoned()
        definitions = build_defs(opened.book.name, settings=opened.settings)
        self._job = definitions.resolve_job_def(JOB_NAME)
        self.split["definitions"] = time.perf_counter() - started

    def close(self, day: date, *, recapture: bool = False) -> DayReport:
        """Run the job for a date and read back how the day stands.

        Args:
            day: close date.
            recapture: read the captures again.

        Raises:
            ComplineError: the book has no such day and the run could not make it.
        """
        from assets.closing import RECAPTURE_TAG
        from pipelines.jobs import BOOK_TAG

        tags = {BOOK_TAG: self.opened.book.name, HOST_TAG: socket.gethostname(), PID_TAG: str(os.getpid())}
        if recapture:
            tags[RECAPTURE_TAG] = "true"
        started = time.perf_counter()
        result = self._job.execute_in_process(
            instance=self._instance,
            partition_key=str(day),
            raise_on_error=False,
            tags=tags,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        self.split[str(day)] = time.perf_counter() - started
        for event in result.all_events:
            if event.is_step_success:
                self.split[f"{day} {event.step_key}"] = event.step_success_data.duration_ms / 1000
        self._say_failures(result)
        report = report_of(self.opened, day)
        if report is None:
            raise ComplineError(
                f"{day} could not be opened in book {self.opened.book.name}",
                next_step="import its events, or close its predecessor",
            )
        return report

    def _end_abandoned(self) -> None:
        """Runs whose process on this machine was killed end red in the UI; what they wrote was rolled back."""
        import dagster as dg

        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={HOST_TAG: socket.gethostname()})
        for run in self._instance.get_runs(filters=started):
            if not psutil.pid_exists(int(run.tags.get(PID_TAG, "0"))):
                self._instance.report_run_failed(run, "the process that ran it is gone")

    def _say_failures(self, result: Any) -> None:
        for event in result.all_events:
            if event.is_step_failure:
                data = event.step_failure_data
                said = data.user_failure_data.description if data.user_failure_data else None
                self.talk(f"{event.step_key}: {said or (data.error.message if data.error else 'failed')}".strip())

    def dispose(self) -> None:
        """Let go of Dagster's storage."""
        self._instance.dispose()


def publish(opened: OpenBook, talk: Talk) -> int:
    """Tell what the outbox holds; a broker that is away is said and never stops a close."""
    from engine.events.relay import relay

    try:
        return relay(opened.url, opened.servers.nats_url)
    except ComplineError as error:
        talk(f"events wait in the outbox: {error}")
        return 0


def is_step(name: str) -> bool:
    """Whether a part of a closer's split is one step of a date (`2026-03-02 close__cutoff`), not the whole of it."""
    return name[:1].isdigit() and " " in name


def dates_between(first: date, last: date) -> Iterator[date]:
    """Every date from the first to the last."""
    day = first
    while day <= last:
        yield day
        day += timedelta(days=1)
