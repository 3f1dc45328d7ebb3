"""`compline close reopen` and `compline close diff`: versions of a sealed date.

What belongs here: the two commands. What does not: closing a reopened date again (`compline close run`, `backfill`).
"""

from __future__ import annotations

from contextlib import closing
from datetime import date
from decimal import Decimal
from typing import Annotated

import psycopg
import typer

from engine.clock import parse_close_date
from engine.errors import UsageError
from engine.money import text_of
from engine.store import days, seals
from engine.store.connect import connect, typed_errors
from engine.store.reopening import Reopened, differences, later_days
from engine.store.reopening import reopen as reopen_dates
from pipelines.books import OpenBook
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk


def reopen(
    close_date: Annotated[str, typer.Argument(metavar="DATE", help="A sealed close date.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept for ever.")],
    by: Annotated[str, typer.Option(help="Who asks.")],
    second: Annotated[str, typer.Option(help="The second person, who agrees.")],
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Reopen a sealed date, and every later one with it, to close again as the next version."""
    with errors(as_json=as_json):
        day = parse_close_date(close_date)
        there = opened(book)
        with closing(connect(there.url, autocommit=True)) as connection, typed_errors():
            if dry_run:
                found = days.read(connection, day)
                if found is None or found.state != "sealed" or found.genesis:
                    raise UsageError(
                        f"{day} is not sealed: there is nothing to reopen", next_step="compline close status"
                    )
                touched = later_days(connection, day)
            else:
                touched = reopen_dates(connection, day, reason=reason, maker=by, checker=second)
        _show(there, touched, dry_run, as_json)


def _show(book: OpenBook, touched: list[Reopened], dry_run: bool, as_json: bool) -> None:
    first, last = touched[-1].close_date, touched[0].close_date
    if as_json:
        rows = [{"close_date": str(one.close_date), "was": one.was, "version": one.version} for one in touched]
        put_json({"book": book.book.name, "dry_run": dry_run, "reopened": rows[::-1]})
    else:
        put_table(["date", "was", "closes as"], [[o.close_date, o.was, f"v{o.version}"] for o in reversed(touched)])
    talk(f"{'would then' if dry_run else 'next'}: compline close backfill {first} {last}")


def diff(
    close_date: Annotated[str, typer.Argument(metavar="DATE", help="A close date with two versions or more.")],
    old: Annotated[
        int | None, typer.Option("--from", help="The older version; default the one before the newer.")
    ] = None,
    new: Annotated[int | None, typer.Option("--to", help="The newer version; default the latest.")] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show what moved between two versions of a date, by account and asset."""
    with errors(as_json=as_json):
        day = parse_close_date(close_date)
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            before, after = _versions(connection, day, old, new)
            found = differences(connection, day, before, after)
        rows = [
            {
                "account": d.account,
                "asset": d.asset,
                "what": d.what,
                "was": text_of(d.was or 0),
                "now": text_of(d.now or 0),
            }
            for d in found
        ]
        if as_json:
            put_json(
                {"book": there.book.name, "close_date": str(day), "from": before, "to": after, "differences": rows}
            )
            return
        put_table(
            ["account", "asset", "what", f"v{before}", f"v{after}"],
            [list(row.values()) for row in rows],
            title=f"{there.book.name} {day}: {len(rows)} figures moved",
        )


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else text_of(amount)


def _versions(connection: psycopg.Connection, day: date, old: int | None, new: int | None) -> tuple[int, int]:
    """The two versions to compare; both have been snapshot."""
    latest = days.read(connection, day)
    newer = new if new is not None else latest.version if latest else 0
    older = old if old is not None else newer - 1
    for version in (older, newer):
        seal = seals.read(connection, day, version)
        current = latest is not None and version == latest.version and latest.books_sha256 is not None
        if seal is None and not current:
            raise UsageError(
                f"{day} has no version {version} to compare",
                rule="a version is compared once its books are fixed",
                next_step=f"compline close status {day}",
            )
    return older, newer
