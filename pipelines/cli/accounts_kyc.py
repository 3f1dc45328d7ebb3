"""`compline accounts kyc`: what the identity provider says.

What belongs here: the commands. What does not: the webhook (see `engine.service.kyc_webhook`) and what an event does.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated

import typer

from engine import clock
from engine.errors import InputError
from engine.store import account_kyc, accounts
from pipelines.cli.account_options import Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors

app = typer.Typer(help="Reviews of identity.", no_args_is_help=True)


@app.command()
def event(
    who: Who,
    outcome: Annotated[str, typer.Argument(help="approved, rejected, or pending for a resubmission.")],
    delivery: Annotated[str, typer.Option(help="The provider's id of this delivery; again, it changes nothing.")],
    at: Annotated[str | None, typer.Option(help="When the provider decided, ISO 8601 with zone; default now.")] = None,
    provider: Annotated[str, typer.Option(help="Who says so.")] = "manual",
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Record an event that came by another way than webhook or NATS."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            user = accounts.find(connection, who)
            decided = clock.now() if at is None else _instant(at)
            text = f"{provider} {delivery} {user.user_id} {outcome} {clock.iso_us(decided)}"
            kyc = account_kyc.KycEvent(
                provider, delivery, user.user_id, outcome, decided, hashlib.sha256(text.encode()).hexdigest(), "cli"
            )
            effect = account_kyc.take(connection, kyc)
        put_done(
            there,
            {"account": user.account, "outcome": outcome, "effect": effect, "dry_run": dry_run},
            as_json=as_json,
        )


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InputError(f"{text!r} is not an instant", rule="ISO 8601 with a zone, such as 2026-03-02T12:00:00Z")
    return found
