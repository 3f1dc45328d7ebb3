"""`compline exchange serve`: the exchange answers on NATS until it is stopped.

What belongs here: the command. What does not: the service (see `engine.service`).
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Annotated

import typer

from engine import clock
from engine.clock import CutOffs, CutOffSchedule
from engine.errors import ComplineError, UncheckedError
from engine.exchange.live import dates_behind, is_live
from engine.service import event_loop
from engine.service.cutoffs import read_cutoffs
from engine.service.server import ExchangeService, ServiceConfig
from engine.store import books
from engine.store.connect import connect, typed_errors
from engine.store.moves import settled_to
from pipelines.books import OpenBook, open_away
from pipelines.cli.options import BookName, DryRun, Json, opened, settings_of
from pipelines.cli.output import errors, put_dry_run, put_json, talk

HEALTH_PORT = 9464


def serve(
    health_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where /healthz and /metrics answer on 127.0.0.1; 0: any free port.")
    ] = HEALTH_PORT,
    compare_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=86_400,
            help="Seconds between two comparisons of engine and ledger; 0: none; default: as the policy says.",
        ),
    ] = None,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve orders, balances, events and market data of a book over NATS, and settle its trades, until SIGTERM."""
    with errors(as_json=as_json):
        there, cutoffs, settled_seq = _opened(book)
        config = ServiceConfig(
            book=there.book.name,
            first_day=there.book.first_day,
            cutoff_rule=cutoffs,
            journal_dir=there.files.journal_dir,
            database_url=there.url,
            nats_url=there.servers.nats_url,
            health_port=health_port,
            markers=(there.card.policy.marker_every_s, there.card.policy.marker_deadline_s),
            marker_every_s=compare_every,
            settled_seq=settled_seq,
        )
        _say_what_ends(config)
        if dry_run:
            put_dry_run(f"would serve book {config.book} from {config.journal_dir}", as_json=as_json)
            return
        event_loop.run(ExchangeService(config, talk).run())
        if as_json:
            put_json({"book": config.book, "stopped": True})


def _say_what_ends(config: ServiceConfig) -> None:
    """Say which dates end at once in a book that was never served: a demo's or a tape's lie in the past."""
    if is_live(config.journal_dir):
        return
    rule, behind = config.cutoff_rule, []
    # A journal that cannot be read is refused where it is opened.
    with suppress(ComplineError):
        behind = dates_behind(config.journal_dir, first_day=config.first_day, cutoff_rule=rule, now=clock.now())
    if behind:
        talk(
            f"book {config.book} was never served, and its open date {behind[0]} lies in the past. Served, its time is"
            f" the clock's: the cut-offs of {len(behind)} dates, to {behind[-1]}, are journalled at once and stand, and"
            " a later date closes only after all of them. To try the exchange, serve another book: --book NAME"
        )


def _opened(name: str | None) -> tuple[OpenBook, CutOffs, int]:
    """The book, when its days end and how far it is settled; where the database is away, as they were known last."""
    try:
        there = opened(name)
        with typed_errors(), closing(connect(there.url)) as connection:
            return there, CutOffSchedule.of(books.cutoffs(connection)), settled_to(connection)
    except UncheckedError as away:
        settings = settings_of(name)
        there = open_away(settings, settings.book)
        talk(f"{away}; orders are served, and settled once it is there")
        return there, read_cutoffs(there.files.journal_dir) or there.card.policy.cutoff_rule, 0
