"""`compline accounts kyc`: what the identity provider says.

What belongs here: the commands. What does not: the webhook (see `engine.service.kyc`) and what an event does.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from datetime import datetime
from typing import Annotated

import typer

from engine import clock
from engine.errors import ConfigError, InputError
from engine.service import kyc as kyc_service
from engine.service.kyc import KycDesk
from engine.store import account_kyc, accounts
from pipelines.cli.account_options import Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_dry_run, put_json, talk
from pipelines.local.files import read_secret
from pipelines.settings import Settings

SECRET_FILE = "kyc_webhook"
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


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Where the webhook answers on 127.0.0.1; 0: any free port.", min=0)] = 9465,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Take events of the provider's sandbox too.")] = False,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Take the provider's signed webhooks, and reviews and new users from NATS, until SIGTERM."""
    with errors(as_json=as_json):
        there = opened(book)
        desk = KycDesk(there.url, webhook_secret(there.settings), sandbox)
        if dry_run:
            put_dry_run(f"would take reviews for book {there.book.name} at port {port}", as_json=as_json)
            return
        asyncio.run(_until_told(desk, port, there.servers.nats_url))
        if as_json:
            put_json({"book": there.book.name, "counts": dict(desk.counts)})


async def _until_told(desk: KycDesk, port: int, nats_url: str) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await kyc_service.serve(desk, port, nats_url, stopping, talk)


def webhook_secret(settings: Settings) -> bytes:
    """The provider's secret: of the environment, or of a file that only its owner reads.

    Raises:
        ConfigError: there is none, it is short, or others may read the file.
    """
    path = settings.home / "secrets" / SECRET_FILE
    if settings.kyc_secret is not None:
        text = settings.kyc_secret.get_secret_value()
    else:
        text = read_secret(settings.home, SECRET_FILE) or ""
        if text and path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others", next_step=f"chmod 600 {path}")
    if len(text) < 16:
        raise ConfigError(
            "the identity provider's webhook secret is missing or shorter than 16 characters",
            next_step=f"set COMPLINE_KYC_SECRET, or put it into {path} (mode 600)",
        )
    return text.encode()


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InputError(f"{text!r} is not an instant", rule="ISO 8601 with a zone, such as 2026-03-02T12:00:00Z")
    return found
