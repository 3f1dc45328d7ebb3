"""`compline close`: run, status, backfill; reopening and comparing versions are beside it.

What belongs here: the commands. What does not: running a day (see `pipelines.closing`).
"""

from __future__ import annotations

from contextlib import closing
from datetime import date
from typing import Annotated, Any

import typer

from engine import clock
from engine.clock import parse_close_date
from engine.errors import UsageError
from engine.store import days
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.cli import close_versions
from pipelines.cli.day_table import day_json, put_days
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk
from pipelines.closing import Closer, DayReport, dates_between, is_done, publish, report_of

app = typer.Typer(help="Close dates, and see how they stand.", no_args_is_help=True)
app.command("reopen")(close_versions.reopen)
app.command("diff")(close_versions.diff)

Recapture = Annotated[
    bool, typer.Option("--recapture", help="Read the engine's balances and the marks of an unsealed date again.")
]


def check_dates(book: OpenBook, first: date, last: date) -> None:
    """Refuse dates outside the book before anything is started.

    Raises:
        UsageError: the range is empty, lies before the first day, or has not come.
    """
    if last < first:
        raise UsageError(f"{first} to {last} is no range", rule="FROM comes before TO")
    if first < book.book.first_day:
        raise UsageError(
            f"{first} lies before the first day of book {book.book.name}, {book.book.first_day}",
            rule="a book is closed from its first day on",
            next_step=f"close {book.book.first_day} or later",
        )
    instant = book.policy_on(last).cutoff_rule.instant(last)
    if instant > clock.now():
        raise UsageError(
            f"{last} ends at {instant:%Y-%m-%d %H:%M} UTC, which has not come",
            rule="a date is closed at or after its cut-off",
            next_step="wait for the cut-off, or close an earlier date",
        )


def close_dates(
    book: OpenBook, wanted: list[date], *, recapture: bool = False
) -> tuple[list[DayReport], dict[str, Any]]:
    """Close dates in order, stopping at the first that does not seal; what is sealed already is left alone.

    Returns:
        Reports of the dates reached, and how long each part took in seconds.
    """
    reports: list[DayReport] = []
    closer: Closer | None = None
    try:
        for day in wanted:
            there = report_of(book, day)
            if there is not None and is_done(book, there):
                talk(f"{day} is sealed: nothing to do")
                reports.append(there)
                continue
            closer = closer or Closer(book, talk=talk)
            report = closer.close(day, recapture=recapture)
            reports.append(report)
            talk(f"{day}: {report.state}")
            if report.state != "sealed":
                break
    finally:
        if closer is not None:
            closer.dispose()
    publish(book, talk)
    return reports, {name: round(seconds, 3) for name, seconds in (closer.split if closer else {}).items()}


def _finish(
    book: OpenBook, reports: list[DayReport], split: dict[str, Any], missing: list[date], as_json: bool
) -> None:
    if as_json:
        put_json(
            {
                "book": book.book.name,
                "days": [day_json(report) for report in reports],
                "not_run": [str(day) for day in missing],
                "process_seconds": split,
            }
        )
    else:
        put_days(reports, currency=book.card.policy.reporting_currency)
        for report in reports:
            _explain(report)
        if missing:
            talk(f"not run, because {reports[-1].close_date} is not sealed: {', '.join(map(str, missing))}")
    code = max((report.exit_code for report in reports), key=lambda code: {0: 0, 2: 1, 1: 2}[code], default=0)
    if code:
        raise typer.Exit(code)


def _explain(report: DayReport) -> None:
    """Why a date is not done: breaks by user, gates, failed steps."""
    for gate in report.gates:
        for shown in gate.detail.get("shown", []) if not gate.stands else []:
            talk(f"{report.close_date} {gate.gate}: {_sides(shown)}")
        for unread in gate.detail.get("unread", []) if not gate.stands else []:
            talk(f"{report.close_date} {gate.gate}: {unread['why']}")
        if gate.verdict == "fail" and not gate.stands:
            talk(f"{report.close_date} gate {gate.gate} failed: docs/runbooks/{gate.gate}.md")
        elif gate.detail.get("unread") and not gate.stands:
            talk(f"{report.close_date} gate {gate.gate} could not be checked: docs/runbooks/{gate.gate}.md")
    for run in report.steps.values():
        if run.error:
            talk(f"{report.close_date} step {run.step_name} {run.status}: {run.error}")


def _sides(shown: dict[str, str]) -> str:
    """One difference in a sentence, whatever two sources its gate compares."""
    whose = shown.get("account") or shown.get("subject") or "in all"
    sides = [name for name in shown if name not in ("account", "subject", "asset", "difference")]
    return f"{whose}: {', '.join(f'{name} {shown[name]}' for name in sides)} {shown['asset']}: {shown['difference']}"


@app.command()
def run(
    close_date: Annotated[str, typer.Argument(metavar="DATE", help="Close date, YYYY-MM-DD.")],
    recapture: Recapture = False,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Close one date; on a sealed one change nothing."""
    with errors(as_json=as_json):
        backfill_dates(close_date, close_date, recapture=recapture, dry_run=dry_run, book=book, as_json=as_json)


@app.command()
def backfill(
    first: Annotated[str, typer.Argument(metavar="FROM", help="First close date.")],
    last: Annotated[str, typer.Argument(metavar="TO", help="Last close date, included.")],
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Close a range of dates in order, stopping at the first that does not seal."""
    with errors(as_json=as_json):
        backfill_dates(first, last, recapture=False, dry_run=dry_run, book=book, as_json=as_json)


def backfill_dates(first: str, last: str, *, recapture: bool, dry_run: bool, book: str | None, as_json: bool) -> None:
    """What `run` and `backfill` share."""
    start, end = parse_close_date(first), parse_close_date(last)
    there = opened(book)
    check_dates(there, start, end)
    wanted = list(dates_between(start, end))
    if dry_run:
        _plan(there, wanted, as_json)
        return
    reports, split = close_dates(there, wanted, recapture=recapture)
    _finish(there, reports, split, wanted[len(reports) :], as_json)


def _plan(book: OpenBook, wanted: list[date], as_json: bool) -> None:
    """What a run would do, from the rows as they are."""
    plan = []
    for day in wanted:
        report = report_of(book, day)
        state = report.state if report else "not open"
        what = "nothing: sealed" if state == "sealed" else "run the steps that have not succeeded on these inputs"
        plan.append({"close_date": str(day), "state": state, "would": what})
    if as_json:
        put_json({"book": book.book.name, "plan": plan})
    else:
        put_table(["date", "state", "would"], [[p["close_date"], p["state"], p["would"]] for p in plan])


@app.command()
def status(
    close_date: Annotated[str | None, typer.Argument(metavar="[DATE]", help="One date; default all.")] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show how dates stand: state, gates, hashes, seal."""
    with errors(as_json=as_json):
        there = opened(book)
        if close_date is not None:
            wanted = [parse_close_date(close_date)]
        else:
            with closing(connect(there.url)) as connection, typed_errors():
                wanted = [day.close_date for day in days.all_days(connection) if not day.genesis]
        reports = [report for day in wanted if (report := report_of(there, day)) is not None]
        if close_date is not None and not reports:
            raise UsageError(
                f"{close_date} is not open in book {there.book.name}", next_step="compline close status shows all dates"
            )
        if as_json:
            put_json({"book": there.book.name, "days": [day_json(report) for report in reports]})
            return
        put_days(reports, currency=there.card.policy.reporting_currency)
        if close_date is not None:
            put_table(
                ["step", "status", "attempt", "rows", "seconds", "error"],
                [
                    [
                        name,
                        step.status,
                        step.attempt,
                        step.row_count,
                        f"{(step.finished_at - step.started_at).total_seconds():.3f}",
                        step.error,
                    ]
                    for name, step in sorted(reports[0].steps.items(), key=lambda item: item[1].started_at)
                ],
            )
            _explain(reports[0])
