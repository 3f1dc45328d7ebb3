"""`compline accounts closure`: a user's request to close the account, its days, and its end.

What belongs here: the commands. What does not: what must be so before an account ends (the database's).
"""

from __future__ import annotations

from typing import Annotated

import typer

from engine.store import accounts
from pipelines.cli.account_options import By, Reason, Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table

app = typer.Typer(help="Closing an account on its user's request.", no_args_is_help=True)


@app.command()
def request(
    who: Who,
    by: By,
    dust_consent: Annotated[bool, typer.Option("--dust-consent", help="The user gives up what is dust.")] = False,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Ask to close an account with nothing left in it: a hold for the days of the policy, reversible meanwhile."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            user = accounts.find(connection, who)
            number = accounts.request_closure(connection, user.user_id, actor=by, dust_consent=dust_consent)
        put_done(there, {"closure": number, "account": user.account, "dry_run": dry_run}, as_json=as_json)


@app.command()
def reverse(
    who: Who, by: By, reason: Reason, dry_run: DryRun = False, book: BookName = None, as_json: Json = False
) -> None:
    """Take a request back: its hold is released and the account stays as it is."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            user = accounts.find(connection, who)
            accounts.reverse_closure(connection, user.user_id, actor=by, reason=reason)
        put_done(there, {"account": user.account, "reversed": True, "dry_run": dry_run}, as_json=as_json)


@app.command()
def finish(by: By, dry_run: DryRun = False, book: BookName = None, as_json: Json = False) -> None:
    """Close the accounts whose days are over and whose balances are zero; a day's close does the same."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            found = accounts.finish_closures(connection, by)
        if as_json:
            rows = [{"user": user, "outcome": outcome} for user, outcome in found]
            put_json({"book": there.book.name, "closures": rows, "dry_run": dry_run})
        else:
            put_table(["user", "outcome"], [list(row) for row in found])
