"""`compline ledger open`: lots and volumes of a book that starts in mid-life.

What belongs here: the command.
What does not: opening balances themselves (commands of the engine's journal), and the seal over both (the first close).
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from engine import clock
from engine.clock import CutOffSchedule
from engine.errors import UsageError
from engine.exchange.history import JournalledCutOff, cut_off_of
from engine.steps.cutoff import barrier_of
from engine.steps.settling import settle
from engine.store import books, market, openings
from engine.store.connect import Connection, connect, typed_errors
from engine.store.moves import settled_to
from engine.valuation.openings import read_openings
from pipelines.books import OpenBook
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, talk


def open_book(
    file: Annotated[Path, typer.Argument(help="JSON Lines: a lot or a volume each; see docs/finance/pnl.md.")],
    book: BookName = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Load the lots and the last 29 days' volumes of opening balances, which the first close seals with them."""
    with errors(as_json=as_json):
        there = opened(book)
        first = there.book.first_day
        with closing(connect(there.url)) as connection, typed_errors():
            barrier = _end_of_day_zero(connection, there, dry_run=dry_run)
            # Balances are final at their cut-off; here they reach the ledger, as they would with the first close.
            settle(connection, there.files.journal_dir, barrier.seq)
            found = read_openings(
                file,
                first_day=first,
                decimals=market.decimals(connection),
                currency=there.policy_on(first).reporting_currency,
            )
            connection.rollback()
            with connection.transaction(force_rollback=dry_run):
                new = openings.load(connection, found, first)
                digest = openings.sha256(connection)
        said = {
            "book": there.book.name,
            "lots": len(found.lots),
            "volumes": len(found.volumes),
            "openings_sha256": digest,
            "new": new and not dry_run,
        }
        done = "are right; nothing was loaded" if dry_run else "loaded" if new else "are there already"
        put_json(said) if as_json else talk(f"{said['lots']} lots and {said['volumes']} volumes {done}")


def _end_of_day_zero(connection: Connection, there: OpenBook, *, dry_run: bool) -> JournalledCutOff:
    """The cut-off that makes opening balances final; journalled now where nothing has come since.

    Raises:
        UsageError: it has not come.
        InputError: there is no journal; or, on a dry run, it is not journalled yet.
    """
    first, journal = there.book.first_day, there.files.journal_dir
    zero = first - timedelta(days=1)
    cutoffs = CutOffSchedule.of(books.cutoffs(connection))
    connection.rollback()
    if cutoffs.instant(zero) > clock.now():
        raise UsageError(
            f"{zero} ends at {clock.iso_s(cutoffs.instant(zero))}, which has not come",
            rule="lots and volumes are loaded when the opening balances are final",
            next_step="wait for the cut-off, and load before the first close",
        )
    if dry_run:
        return cut_off_of(journal, zero)
    settled = settled_to(connection)
    connection.rollback()
    return barrier_of(journal, zero, first_day=first, cutoffs=cutoffs, settled_seq=settled)
