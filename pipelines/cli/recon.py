"""`compline recon`: breaks between sources.

What belongs here: listing them. What does not: clearing them (it takes two people and joins with reconciliation).
"""

from __future__ import annotations

from contextlib import closing

import typer

from engine.money import text_of
from engine.store.breaks import open_breaks
from engine.store.connect import connect, typed_errors
from pipelines.cli.options import BookName, Json, opened
from pipelines.cli.output import errors, put_json, put_table

app = typer.Typer(help="Reconciliation.", no_args_is_help=True)
breaks_app = typer.Typer(help="Differences between two sources.", no_args_is_help=True)
app.add_typer(breaks_app, name="breaks")


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
