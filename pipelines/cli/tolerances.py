"""`compline recon tolerances`: how far two outside sources may differ, by gate and asset, until when, and who said so.

What belongs here: the commands. What does not: the rules (the database has them), and what is tolerated (the gates).

Looking is the application's; setting and ending need the owner's login (DATABASE_ADMIN_URL) and two people.
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import Annotated

import psycopg
import typer

from engine import clock
from engine.money import parse_decimal
from engine.store import tolerances
from engine.store.connect import connect, typed_errors
from engine.store.tolerances import Tolerance
from pipelines.books import OpenBook
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk

app = typer.Typer(help="How far two outside sources may differ.", no_args_is_help=True)

Gate = Annotated[str, typer.Argument(help="ledger_vs_custody, custody_covers_liabilities or staking_vs_chain.")]
Asset = Annotated[str, typer.Argument(help="The asset, as the books name it.")]
By = Annotated[str, typer.Option(help="Who does it.")]
Second = Annotated[str, typer.Option(help="The second person, who approves.")]
Why = Annotated[str, typer.Option(help="Why; it is kept for ever.")]


@app.command("list")
def list_tolerances(
    history: Annotated[bool, typer.Option("--history", help="Every time that one was set or ended.")] = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """List tolerances, those past their end too, or everything that was ever done with them."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found = tolerances.every(connection)
            done = tolerances.history(connection) if history else []
        if history:
            _put_rows("history", there, done, as_json)
        else:
            _put_rows("tolerances", there, [one.as_dict() for one in found], as_json)


@app.command("set")
def set_tolerance(
    gate: Gate,
    asset: Asset,
    why: Why,
    by: By,
    second: Second,
    absolute: Annotated[str, typer.Option(help="In the asset's units.")] = "0",
    bps: Annotated[int, typer.Option(help="Basis points of the outside figure; the larger of both holds.")] = 0,
    days: Annotated[int, typer.Option(help="How many days it holds.", min=1, max=366)] = 30,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Let a gate's two sources differ by so much, until then; it replaces what was set before."""
    with errors(as_json=as_json):
        much = parse_decimal(absolute, record="--absolute")
        there = opened(book)
        until = clock.now() + timedelta(days=days)
        with closing(connect(there.servers.admin.dsn())) as connection, typed_errors():
            tolerances.put(connection, gate, asset, much, bps, until, why, by, second)
            _end(connection, there, gate, asset, dry_run, as_json)


@app.command()
def expire(
    gate: Gate,
    asset: Asset,
    why: Why,
    by: By,
    second: Second,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """End a tolerance now; a date that is not sealed is judged without it."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.servers.admin.dsn())) as connection, typed_errors():
            tolerances.expire(connection, gate, asset, why, by, second)
            _end(connection, there, gate, asset, dry_run, as_json)


def _end(connection: psycopg.Connection, there: OpenBook, gate: str, asset: str, dry_run: bool, as_json: bool) -> None:
    """Show what holds now, and keep it or roll it back."""
    one = next(t for t in tolerances.every(connection) if (t.gate, t.asset) == (gate, asset))
    if dry_run:
        connection.rollback()
        talk("a dry run: nothing was changed")
    else:
        connection.commit()
    _put_one(there, one, dry_run, as_json)


def _put_one(there: OpenBook, one: Tolerance, dry_run: bool, as_json: bool) -> None:
    if as_json:
        put_json({"book": there.book.name, "dry_run": dry_run, **one.as_dict()})
    else:
        put_table(["what", "value"], [[name, value] for name, value in one.as_dict().items()])


def _put_rows(name: str, there: OpenBook, rows: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        put_json({"book": there.book.name, name: rows})
    elif rows:
        put_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        talk("none: nothing is tolerated")
