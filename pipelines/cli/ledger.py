"""`compline ledger`: balances and the trial balance.

What belongs here: the commands and their two queries. What does not: posting anything, and opening (see `ledger_open`).
"""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from engine.clock import parse_close_date
from engine.errors import InputError, UsageError
from engine.money import text_of
from engine.store import days
from engine.store.connect import connect, typed_errors
from pipelines.cli.ledger_open import open_book
from pipelines.cli.options import BookName, Json, opened
from pipelines.cli.output import errors, put_json, put_table

app = typer.Typer(help="Read the ledger; open it with lots and volumes.", no_args_is_help=True)
app.command("open")(open_book)


@app.command()
def balance(
    account: Annotated[str, typer.Argument(help="A user's or house account; sub-accounts are shown with it.")],
    asset: Annotated[str | None, typer.Option(help="Only this asset.")] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show what an account has now, in every asset."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            rows = connection.execute(
                "SELECT account, asset, liability_class, balance FROM ledger.accounts"
                " WHERE (account = %(a)s OR account LIKE %(like)s) AND (%(s)s::text IS NULL OR asset = %(s)s)"
                " ORDER BY account, asset",
                {
                    "a": account,
                    "like": account.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + ":%",
                    "s": asset,
                },
            ).fetchall()
        if not rows:
            raise InputError(
                f"book {there.book.name} has no account {account}" + (f" in {asset}" if asset else ""),
                next_step="compline ledger trial-balance shows what there is",
            )
        found = [{"account": r[0], "asset": r[1], "liability_class": r[2], "balance": text_of(r[3])} for r in rows]
        if as_json:
            put_json({"book": there.book.name, "balances": found})
        else:
            put_table(["account", "asset", "class", "balance"], [list(row.values()) for row in found])


@app.command("trial-balance")
def trial_balance(
    close_date: Annotated[str | None, typer.Argument(metavar="[DATE]", help="A close date; default the last.")] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show the trial balance of a closed date, by asset and liability class; credits are positive."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            if close_date is None:
                closed = [d for d in days.all_days(connection) if d.books_sha256 is not None and not d.genesis]
                if not closed:
                    raise UsageError(f"book {there.book.name} has no closed date", next_step="compline close run DATE")
                day = closed[-1]
            else:
                found = days.read(connection, parse_close_date(close_date))
                if found is None or found.books_sha256 is None:
                    raise UsageError(
                        f"{close_date} has no closed books in book {there.book.name}",
                        next_step=f"compline close run {close_date}",
                    )
                day = found
            rows = connection.execute(
                "SELECT asset, liability_class, opening, debits, credits, closing, accounts FROM ledger.control_totals"
                " WHERE close_date = %s AND version = %s ORDER BY asset, liability_class",
                (day.close_date, day.version),
            ).fetchall()
        lines = [
            {
                "asset": r[0],
                "liability_class": r[1],
                **{
                    name: text_of(v)
                    for name, v in zip(("opening", "debits", "credits", "closing"), r[2:6], strict=True)
                },
                "accounts": r[6],
            }
            for r in rows
        ]
        if as_json:
            put_json(
                {
                    "book": there.book.name,
                    "close_date": str(day.close_date),
                    "version": day.version,
                    "books_sha256": day.books_sha256,
                    "lines": lines,
                }
            )
        else:
            put_table(
                ["asset", "class", "opening", "debits", "credits", "closing", "accounts"],
                [list(line.values()) for line in lines],
                title=f"{there.book.name} {day.close_date} v{day.version}",
            )
