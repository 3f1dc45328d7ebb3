"""One dbt build of a close date: invoked in this process, bounded in time, its results as plain records.

What belongs here: the invocation and the translation of what dbt says.
What does not: when it runs and what a failure means for the day (see `step`).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg

from assets.finance import manifest
from assets.finance.database import FinanceDatabase, end_sessions
from assets.finance.dbt_process import base_arguments, dbt_environment, work_folder
from engine.errors import ComplineError, StepTimeoutError, UncheckedError

BUILT = ("success",)
PASSED = ("pass",)
MARTS_AND_TESTS = ("config.materialized:incremental", "resource_type:test")


@dataclass(frozen=True)
class NodeResult:
    """How one model or test of a build went.

    Attributes:
        kind: `model` or `test`.
        status: dbt's word: success, error, skipped; pass, fail, error, warn, skipped.
        failures: rows that a test found.
        message: dbt's text where it did not go well.
    """

    kind: str
    name: str
    model: str
    status: str
    failures: int
    milliseconds: int
    message: str

    @property
    def fine(self) -> bool:
        """Whether the model was built or the test passed."""
        return self.status in (BUILT if self.kind == "model" else PASSED)


def build(
    database: FinanceDatabase,
    day: date,
    *,
    select: tuple[str, ...] = (),
    full_refresh: bool = False,
    kinds: tuple[str, ...] = ("model", "test"),
    limit_s: float | None = None,
) -> list[NodeResult]:
    """Build and test the models for a close date.

    Args:
        database: dbt's login on the book.
        day: the date; always passed, since models and tests refuse to run without.
        select: dbt selectors; empty is everything.
        full_refresh: build the marts anew, of every sealed day.
        kinds: resource types; `unit_test` is for tests, not for a close.
        limit_s: hard limit, seconds.

    Raises:
        UncheckedError: dbt stopped before it had results.
        StepTimeoutError: the limit passed; its sessions were ended.
    """
    application = f"compline dbt {os.getpid()}-{threading.get_ident()}"
    where = {"host": database.host, "port": str(database.port), "user": database.user, "dbname": database.database}
    arguments = ["build", "--vars", json.dumps({"close_date": str(day)})]
    arguments += [word for kind in kinds for word in ("--resource-type", kind)]
    arguments += ["--select", *select] if select else []
    arguments += ["--full-refresh"] if full_refresh else []
    prepared = manifest.for_database(database.home, database.database)
    with (
        work_folder(manifest.cache_folder(database.home)) as work,
        dbt_environment(database.options, **where, password=database.password, application=application),
        _limit(database, application, limit_s) as passed,
    ):
        done = _invoke(prepared, [*arguments, *base_arguments(work)])
    if passed.is_set():
        raise StepTimeoutError(
            f"dbt ran past its limit of {limit_s:g} s for {day} and was ended",
            rule="a step has a hard limit",
            next_step="see close.eod_runs; the marts of the day are as they were, and the step can be run again",
        )
    return _results(done, day)


def _invoke(prepared: Any, arguments: list[str]) -> Any:
    from dbt.cli.main import dbtRunner
    from dbt_common.behavior_flags import BehaviorFlagRendered

    # For the name of a module in a log line dbt reads the sources of the whole stack eight times: a tenth of a build.
    BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt.adapters")
    done = dbtRunner(manifest=prepared).invoke(arguments)
    # The step's own alarm rings in this thread; dbt hands it back as a result like any other.
    if isinstance(done.exception, ComplineError | KeyboardInterrupt | SystemExit):
        raise done.exception
    return done


@contextmanager
def _limit(database: FinanceDatabase, application: str, limit_s: float | None) -> Iterator[threading.Event]:
    """End every session of the invocation once the limit has passed, until the invocation returns."""
    passed, over = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(limit_s):
            return
        passed.set()
        while not over.wait(0.5):
            with suppress(ComplineError, psycopg.Error):
                end_sessions(database, application)

    if limit_s is None:
        yield passed
        return
    watcher = threading.Thread(target=watch, name="dbt limit", daemon=True)
    watcher.start()
    try:
        yield passed
    except BaseException:
        with suppress(ComplineError, psycopg.Error):
            end_sessions(database, application)
        raise
    finally:
        over.set()
        watcher.join()


def _results(done: Any, day: date) -> list[NodeResult]:
    found = getattr(done.result, "results", None)
    if done.exception is not None or found is None:
        raise UncheckedError(
            f"dbt stopped for {day}: {' '.join(str(done.exception or 'it gave no results').split())}",
            rule="what was not built and tested is not passed",
            next_step="compline doctor; then run finance of that date again",
        )
    return sorted((_result(one) for one in found), key=lambda one: (one.kind, one.model, one.name))


def _result(one: Any) -> NodeResult:
    node = one.node
    kind = str(node.resource_type)
    attached = str(getattr(node, "attached_node", None) or "")
    status = str(one.status)
    return NodeResult(
        kind=kind,
        name=node.name,
        model=node.name if kind == "model" else attached.rsplit(".", 1)[-1],
        status=status,
        failures=int(one.failures or 0),
        milliseconds=round(one.execution_time * 1000),
        message="" if status in (*BUILT, *PASSED) else " ".join(str(one.message or "").split()),
    )
