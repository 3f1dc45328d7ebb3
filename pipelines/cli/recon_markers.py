"""`compline recon status|now`: engine against ledger while trading goes on.

What belongs here: showing results of markers, and asking for one. What does not: comparing (the service does).
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated

import typer

from engine import clock
from engine.errors import UncheckedError
from engine.store import command_requests, markers
from engine.store.connect import Connection, connect, typed_errors
from engine.store.markers import MarkerResult
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_dry_run, put_json, put_table, talk

_EXIT = {"pass": 0, "fail": 1, "unknown": UncheckedError.exit_code}
_POLL_S = 0.1
_CONNECTS_S = 2
_GRACE_S = 10
"""Beyond the deadline: the exchange has to hear of the request, and its answer has to be written."""


def status(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many results, the newest first.")] = 10,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show the last comparisons of engine and ledger; exit 1 where the last differs, 2 where it is unknown or old."""
    with errors(as_json=as_json):
        there = opened(book)
        with typed_errors(), closing(connect(there.url, autocommit=True)) as connection:
            found = markers.recent(connection, limit)
            every_s, deadline_s = markers.rule(connection)
            last = markers.last_judged(connection)
        age_s = None if last is None else int((clock.now() - last).total_seconds())
        old = every_s > 0 and (age_s is None or age_s > 2 * every_s + deadline_s)
        verdict = "unknown" if old or not found else found[0].verdict
        if as_json:
            put_json(
                {
                    "book": there.book.name,
                    "verdict": verdict,
                    "age_s": age_s,
                    "every_s": every_s,
                    "deadline_s": deadline_s,
                    "markers": [one.as_dict() for one in found],
                }
            )
        else:
            put_table(["sequence", "judged", "verdict", "rows", "breaks", "ms", "what"], [_row(one) for one in found])
            talk(f"engine and ledger: {verdict}" + (f"; last compared {age_s} s ago" if age_s is not None else ""))
        raise typer.Exit(_EXIT[verdict])


def compare_now(
    wait_s: Annotated[int, typer.Option(min=0, help="Seconds to wait for the result; 0: as the policy says.")] = 0,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Have the exchange compare engine and ledger now; exit 1 where they differ, 2 where there was no comparison."""
    with errors(as_json=as_json):
        there = opened(book)
        if dry_run:
            put_dry_run(
                f"would ask the exchange of book {there.book.name} for a marker and wait for its comparison",
                as_json=as_json,
            )
            return
        with typed_errors(), closing(connect(there.url, autocommit=True)) as connection:
            limit_s = wait_s or markers.rule(connection)[1] + _GRACE_S
            _need_listener(connection, there.book.name)
            reference = markers.request(connection)
            talk(f"asked for a marker; its result is awaited for at most {limit_s} s")
            deadline = time.monotonic() + limit_s
            while (done := markers.of_reference(connection, reference)) is None and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        if done is None:
            raise UncheckedError(
                f"book {there.book.name} has no result of marker {reference} after {limit_s} s",
                rule="what was not compared is unknown, never passed",
                next_step="see that the exchange is served: compline exchange serve; then compline recon status",
            )
        if as_json:
            put_json({"book": there.book.name, **done.as_dict()})
        else:
            put_table(["sequence", "judged", "verdict", "rows", "breaks", "ms", "what"], [_row(done)])
        raise typer.Exit(_EXIT[done.verdict])


def _need_listener(connection: Connection, book: str) -> None:
    """Wait a moment for an exchange that connects anew.

    Raises:
        UncheckedError: none is served; nothing was asked.
    """
    deadline = time.monotonic() + _CONNECTS_S
    while not command_requests.is_listening(connection):
        if time.monotonic() > deadline:
            raise UncheckedError(
                f"nobody serves the exchange of book {book}, so engine and ledger cannot be compared now",
                rule="what was not compared is unknown, never passed",
                next_step="compline exchange serve; a close of a date compares without it",
            )
        time.sleep(_POLL_S)


def _row(one: MarkerResult) -> list[str]:
    counts = ("-" if n is None else str(n) for n in (one.engine_rows, one.breaks, one.compared_ms))
    rows, breaks, ms = counts
    named = ", ".join(f"{b['account']} {b['difference']} {b['asset']}" for b in one.detail.get("breaks", ())[:3])
    return [str(one.seq), one.judged_at, one.verdict, rows, breaks, ms, str(one.detail.get("what", named))]
