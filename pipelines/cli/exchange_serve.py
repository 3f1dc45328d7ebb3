"""`compline exchange serve`: the exchange answers on NATS until it is stopped.

What belongs here: the command. What does not: the service (see `engine.service`).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from engine.exchange import history
from engine.exchange.journal import journal_path
from engine.service.server import ExchangeService, ServiceConfig
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, talk

HEALTH_PORT = 9464


def serve(
    health_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where /healthz and /metrics answer on 127.0.0.1; 0: any free port.")
    ] = HEALTH_PORT,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve orders, balances, events and market data of a book over NATS, and settle its trades, until SIGTERM."""
    with errors(as_json=as_json):
        there = opened(book)
        first_day = there.book.first_day
        directory = there.files.journal_dir
        cuts = history.cut_offs(directory) if journal_path(directory).exists() else []
        open_day = max(first_day, cuts[-1].close_date + timedelta(days=1)) if cuts else first_day
        config = ServiceConfig(
            book=there.book.name,
            first_day=first_day,
            cutoff_rule=there.policy_on(open_day).cutoff_rule,
            journal_dir=directory,
            database_url=there.url,
            nats_url=there.servers.nats_url,
            health_port=health_port,
        )
        if dry_run:
            talk(f"would serve book {config.book} from {config.journal_dir}")
            return
        asyncio.run(ExchangeService(config, talk).run())
        if as_json:
            put_json({"book": config.book, "stopped": True})
