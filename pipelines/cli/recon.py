"""`compline recon`: breaks between sources.

What belongs here: listing them. What does not: clearing them (it takes two people and joins with reconciliation).
"""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from engine.clock import parse_close_date
from engine.errors import UncheckedError
from engine.money import text_of
from engine.recon.sources import contracts_of, wallets_of
from engine.store.breaks import open_breaks
from engine.store.connect import connect, typed_errors
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table
from pipelines.collect import Collected, collect

app = typer.Typer(help="Reconciliation.", no_args_is_help=True)
breaks_app = typer.Typer(help="Differences between two sources.", no_args_is_help=True)
app.add_typer(breaks_app, name="breaks")


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


@breaks_app.callback()
def _breaks() -> None:
    """Differences between two sources."""


@breaks_app.command("list")
def list_breaks(book: BookName = None, as_json: Json = False) -> None:
    """List the breaks that nobody has closed."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found = open_breaks(connection)
        if as_json:
            put_json(
                {
                    "book": there.book.name,
                    "breaks": [
                        {
                            "id": b.break_id,
                            "gate": b.gate,
                            "state": b.state,
                            "last_date": str(b.last_date),
                            **b.as_dict(),
                        }
                        for b in found
                    ],
                }
            )
            return
        put_table(
            ["id", "gate", "account", "asset", "expected", "actual", "difference", "state", "last date"],
            [
                [
                    b.break_id,
                    b.gate,
                    b.subject,
                    b.asset,
                    *map(text_of, (b.expected, b.actual, b.difference)),
                    b.state,
                    b.last_date,
                ]
                for b in found
            ],
        )
