"""`compline recon`: reading the outside, and breaks between sources.

What belongs here: collecting readings. What does not: breaks and tolerances (beside it), comparisons while trading
goes on (see `recon_markers`), and judging (the close does).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from engine.clock import CloseDate, parse_close_date
from engine.errors import UncheckedError
from engine.recon.sources import WalletSource, contracts_of, wallets_of
from pipelines.books import OpenBook
from pipelines.cli import breaks, recon_markers, tolerances
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk
from pipelines.closing import dates_between
from pipelines.collect import Collected, collect

app = typer.Typer(help="Reconciliation.", no_args_is_help=True)
app.add_typer(breaks.app, name="breaks")
app.add_typer(tolerances.app, name="tolerances")
app.command("status")(recon_markers.status)
app.command("now")(recon_markers.compare_now)


@app.command("collect")
def collect_readings(
    close_date: Annotated[str, typer.Option("--date", help="Close date; its cut-off has passed.")],
    back: Annotated[
        int, typer.Option(help="Read so many dates before it again: what changed since their seal is told.", min=0)
    ] = 0,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Read custody and chain as of a cut-off and store what they say, beside what they said before.

    Exit 2 where one cannot be read, 1 where one differs from what a date was sealed on.
    """
    with errors(as_json=as_json):
        last = parse_close_date(close_date)
        there = opened(book)
        first = max(last - timedelta(days=back), min(last, there.book.first_day))
        done: list[Collected] = []
        for day in dates_between(first, last):
            done += _would(there, day) if dry_run else collect(there, day)
        if as_json:
            shown = [
                {"source": one.source, "subject": one.subject, "result": one.result, "changed": one.changed or None}
                for one in done
            ]
            put_json({"book": there.book.name, "close_date": str(last), "readings": shown})
        else:
            put_table(["source", "subject", "result"], [[one.source, one.subject, one.result] for one in done])
        for one in done:
            if one.changed:
                talk(f"{one.subject} differs from what was sealed: {one.changed}: docs/runbooks/reading_changed.md")
        if dry_run:
            return
        if not all(one.read for one in done):
            raise typer.Exit(UncheckedError.exit_code)
        if any(one.changed for one in done):
            raise typer.Exit(1)


def _would(there: OpenBook, day: CloseDate) -> list[Collected]:
    policy = there.policy_on(day)
    sources = (*wallets_of(policy.custody_wallets), *contracts_of(policy.staking_contracts))
    names = [(one.source, one.subject if isinstance(one, WalletSource) else one.contract) for one in sources]
    return [Collected(source, f"{name}@{day}", "would be read") for source, name in names]
