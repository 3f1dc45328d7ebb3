"""`compline accounts hold`: keep an account's withdrawals back, and let them go.

What belongs here: the commands. What does not: who needs a second person (policy, held by the database).
"""

from __future__ import annotations

from typing import Annotated

import typer

from engine.errors import UsageError
from engine.store import accounts
from pipelines.cli.account_options import By, Reason, Second, Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors

app = typer.Typer(help="Holds on an account's withdrawals.", no_args_is_help=True)


@app.command("open")
def open_hold(
    who: Who,
    kind: Annotated[str, typer.Argument(help="break, sanctions, dispute or legal.")],
    reference: Annotated[str, typer.Option(help="What it is about: a case number. The same again changes nothing.")],
    reason: Reason,
    by: By,
    second: Second = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Open a hold: withdrawals of the account stop, in the exchange too."""
    with errors(as_json=as_json):
        if kind == "closure":
            raise UsageError(
                "a closure hold belongs to a request of its user", next_step="compline accounts closure request"
            )
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            user = accounts.find(connection, who)
            number = accounts.open_hold(
                connection, user.user_id, kind, reference=reference, reason=reason, opener=by, second=second
            )
        put_done(there, {"hold": number, "account": user.account, "kind": kind, "dry_run": dry_run}, as_json=as_json)


@app.command("release")
def release(
    hold_id: Annotated[int, typer.Argument(help="The hold's number: `compline accounts show` lists them.")],
    reason: Reason,
    by: By,
    second: Second = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Release a hold; breaks, sanctions and legal holds take two people, the first not the one who opened it."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            accounts.release_hold(connection, hold_id, who=by, second=second, reason=reason)
        put_done(there, {"hold": hold_id, "released_by": by, "second": second, "dry_run": dry_run}, as_json=as_json)
