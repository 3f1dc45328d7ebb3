"""`compline recon breaks`: differences between two sources, from open to closed.

What belongs here: the commands. What does not: finding breaks (the gates do), and the rules (the database has them).

Looking, assigning, commenting and explaining are the application's; correcting, closing and waiving need the owner's
login (DATABASE_ADMIN_URL) and two people: no service does them by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Annotated, Any

import psycopg
import typer

from engine import clock
from engine.clock import parse_close_date
from engine.errors import UsageError
from engine.money import parse_decimal, text_of
from engine.store import breaks
from engine.store.breaks import Break
from engine.store.connect import connect, typed_errors
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk

app = typer.Typer(help="Differences between two sources.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="BREAK", help="Its number, as `list` shows it.")]
By = Annotated[str, typer.Option(help="Who does it.")]
Second = Annotated[str, typer.Option(help="The second person, who agrees.")]
Why = Annotated[str, typer.Option(help="Why; it is kept for ever.")]
Evidence = Annotated[str | None, typer.Option(help="A link: ticket, transaction, statement.")]


@app.command("list")
def list_breaks(
    closed: Annotated[bool, typer.Option("--closed", help="Closed ones too.")] = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """List breaks with their age and owner."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found = breaks.all_breaks(connection, closed=closed)
        if as_json:
            put_json({"book": there.book.name, "breaks": [_json(b) for b in found]})
            return
        put_table(
            [
                "id",
                "gate",
                "account",
                "asset",
                "expected",
                "actual",
                "difference",
                "state",
                "age",
                "owner",
                "last date",
            ],
            [
                [
                    b.break_id,
                    b.gate,
                    b.subject,
                    b.asset,
                    *map(text_of, (b.expected, b.actual, b.difference)),
                    b.state,
                    b.age,
                    b.owner,
                    b.last_date,
                ]
                for b in found
            ],
        )


@app.command()
def show(number: Number, book: BookName = None, as_json: Json = False) -> None:
    """Show a break and everything that was done with it."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found, done = _there(connection, number), breaks.events(connection, number)
        _put(found, done, as_json)


@app.command()
def assign(
    number: Number,
    to: Annotated[str, typer.Option(help="The owner.")],
    by: By,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Give a break an owner; an open one is then being investigated."""
    _do(number, book, as_json, dry_run, lambda c: breaks.assign(c, number, by, to))


@app.command()
def comment(
    number: Number,
    text: Annotated[str, typer.Option(help="What there is to say.")],
    by: By,
    evidence: Evidence = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Say something of a break, with a link to evidence."""
    _do(number, book, as_json, dry_run, lambda c: breaks.comment(c, number, by, text, evidence))


@app.command()
def explain(
    number: Number,
    reason: Annotated[str, typer.Option(help="A reason code, e.g. timing, missing_entry, outside_error.")],
    text: Annotated[str, typer.Option(help="The explanation.")],
    by: By,
    evidence: Evidence = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Say why a break is there."""
    _do(number, book, as_json, dry_run, lambda c: breaks.explain(c, number, by, reason, text, evidence))


@app.command()
def correct(
    number: Number,
    side: Annotated[str, typer.Option(help="The wrong side: ledger or engine.")],
    why: Why,
    by: By,
    second: Second,
    counter: Annotated[
        str | None, typer.Option(help="The house account of the other leg, where the ledger is wrong.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The deposit or withdrawal that it undoes, where that leg is a wallet's.")
    ] = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Correct the wrong side by the break's own amount; it lands in the open date."""
    _do(
        number,
        book,
        as_json,
        dry_run,
        lambda c: breaks.correct(c, number, side, by, second, why, counter, reference),
        as_owner=True,
    )


@app.command()
def close(
    number: Number,
    why: Why,
    by: By,
    second: Second,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Close an explained or corrected break; its user's hold is released."""
    _do(number, book, as_json, dry_run, lambda c: breaks.close(c, number, by, second, why), as_owner=True)


@app.command()
def waive(
    close_date: Annotated[str, typer.Argument(metavar="DATE", help="The date that may seal.")],
    gate: Annotated[str, typer.Option(help="A waivable gate, e.g. engine_vs_ledger.")],
    asset: Annotated[str, typer.Option(help="The asset.")],
    cap: Annotated[str, typer.Option(help="The largest difference that it covers.")],
    why: Why,
    by: By,
    second: Second,
    scope: Annotated[str, typer.Option(help="One account, or `book`.")] = "book",
    days: Annotated[int, typer.Option(help="How many days it holds.", min=1, max=30)] = 1,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Let a date seal over a break up to a cap. The verdict stays what it is, and the seal shows the waiver."""
    with errors(as_json=as_json):
        day = parse_close_date(close_date)
        amount = parse_decimal(cap, record="--cap")
        there = opened(book)
        with closing(connect(there.servers.admin.dsn())) as connection, typed_errors():
            made = breaks.waive(
                connection, gate, scope, day, asset, amount, why, by, second, clock.now() + timedelta(days=days)
            )
            _end(connection, dry_run)
        if as_json:
            put_json({"book": there.book.name, "waiver": made, "close_date": str(day), "dry_run": dry_run})
        else:
            talk(f"waiver {made} {'would hold' if dry_run else 'holds'} for {day}: compline close run {day}")


def _do(
    number: int,
    book: str | None,
    as_json: bool,
    dry_run: bool,
    work: Callable[[psycopg.Connection], Any],
    *,
    as_owner: bool = False,
) -> None:
    """One act on a break in a transaction of its own, rolled back where it is only tried."""
    with errors(as_json=as_json):
        there = opened(book)
        url = there.servers.admin.dsn() if as_owner else there.url
        with closing(connect(url)) as connection, typed_errors():
            work(connection)
            found, done = _there(connection, number), breaks.events(connection, number)
            _end(connection, dry_run)
        if dry_run:
            talk("a dry run: nothing was changed")
        _put(found, done, as_json)


def _end(connection: psycopg.Connection, dry_run: bool) -> None:
    if dry_run:
        connection.rollback()
    else:
        connection.commit()


def _there(connection: psycopg.Connection, number: int) -> Break:
    found = breaks.one(connection, number)
    if found is None:
        raise UsageError(f"there is no break {number}", next_step="compline recon breaks list --closed")
    return found


def _put(found: Break, done: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        put_json({**_json(found), "events": done})
        return
    put_table(["what", "value"], [[name, value] for name, value in _json(found).items()])
    put_table(["at", "what", "who", "second", "text", "evidence"], [list(event.values()) for event in done])


def _json(one: Break) -> dict[str, Any]:
    return {
        "id": one.break_id,
        "gate": one.gate,
        "state": one.state,
        "age": one.age,
        "owner": one.owner,
        "reason_code": one.reason_code,
        "first_date": str(one.first_date),
        "last_date": str(one.last_date),
        **one.as_dict(),
    }
