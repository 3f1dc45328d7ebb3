"""`compline recon`: reading the outside, and breaks between sources.

What belongs here: collecting readings. What does not: breaks (see `breaks`), comparisons while trading goes on (see
`recon_markers`), and judging (the close does).
"""

from __future__ import annotations

from typing import Annotated

import typer

from engine.clock import parse_close_date
from engine.errors import UncheckedError
from engine.recon.sources import contracts_of, wallets_of
from pipelines.cli import breaks, recon_markers
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table
from pipelines.collect import Collected, collect

app = typer.Typer(help="Reconciliation.", no_args_is_help=True)
app.add_typer(breaks.app, name="breaks")
app.command("status")(recon_markers.status)
app.command("now")(recon_markers.compare_now)


@app.command("collect")
def collect_readings(
    close_date: Annotated[str, typer.Option("--date", help="Close date; its cut-off has passed.")],
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Read custody and chain as of a cut-off and store what they say; exit 2 where one cannot be read."""
    with errors(as_json=as_json):
        day = parse_close_date(close_date)
        there = opened(book)
        if dry_run:
            policy = there.policy_on(day)
            subjects = [w.subject for w in wallets_of(policy.custody_wallets)]
            subjects += [c.contract for c in contracts_of(policy.staking_contracts)]
            done = [Collected("-", f"{subject}@{day}", "would be read") for subject in subjects]
        else:
            done = collect(there, day)
        if as_json:
            shown = [{"source": one.source, "subject": one.subject, "result": one.result} for one in done]
            put_json({"book": there.book.name, "close_date": str(day), "readings": shown})
        else:
            put_table(["source", "subject", "result"], [[one.source, one.subject, one.result] for one in done])
        if not dry_run and not all(one.read for one in done):
            raise typer.Exit(UncheckedError.exit_code)
