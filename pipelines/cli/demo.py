"""`compline demo`: a seeded exchange, loaded, settled and closed, from nothing to sealed days.

What belongs here: the command and what it says at the end. What does not: the exchange (see `engine.sim`).
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from datetime import date
from typing import Annotated

import typer

from engine.clock import CutOffRule
from engine.close.policy import Policy
from engine.sim.demo import load_demo
from engine.sim.demo_world import POLICY, DemoConfig
from engine.steps.settling import settle
from engine.store import digest
from engine.store.books import Book
from engine.store.connect import connect, typed_errors
from engine.store.moves import settled_to
from pipelines.books import BookCard, BookFiles, OpenBook, create_book, read_card
from pipelines.cli.close import close_dates
from pipelines.cli.day_table import day_json, put_days
from pipelines.cli.options import BookName, DryRun, Json, settings_of
from pipelines.cli.output import errors, progress, put_dry_run, put_json, talk
from pipelines.closing import dates_between, is_step
from pipelines.collect import collect
from pipelines.key_store import load_keys
from pipelines.settings import Settings

EXCHANGE = "demo.compline.example"


def demo(
    days: Annotated[int, typer.Option(min=1, max=366, help="How many close dates.")] = 3,
    users: Annotated[int, typer.Option(min=2, max=1_000_000, help="How many users.")] = 500,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal books, byte for byte.")] = 1,
    load_only: Annotated[bool, typer.Option("--load-only", help="Load and settle; close the days yourself.")] = False,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Load a simulated exchange, read its simulated custody and chain, and close its days.

    Run again, it changes nothing.
    """
    started = time.perf_counter()
    with errors(as_json=as_json):
        settings = settings_of(book)
        config = DemoConfig(seed=seed, days=days, users=users)
        card = card_of(settings, config)
        load_keys(settings, card)
        wanted = list(dates_between(config.first_day, date.fromordinal(config.first_day.toordinal() + days - 1)))
        if dry_run:
            put_dry_run(
                f"would load {users} users into book {settings.book} and close {wanted[0]} to {wanted[-1]}",
                as_json=as_json,
            )
            return
        opened = create_book(settings, card, talk=talk)
        split = {"servers and schema": time.perf_counter() - started}
        split |= _load(opened, config)
        split |= _collect(opened, wanted)
        if load_only:
            talk(
                f"close them: compline close backfill {wanted[0]} {wanted[-1]} --book {opened.book.name}, or in the UI"
            )
            return
        reports, closing_split = close_dates(opened, wanted)
        split |= closing_split
        with closing(connect(opened.url)) as connection, typed_errors():
            state = digest.state_digest(connection)
        seconds = time.perf_counter() - started
        if as_json:
            put_json(
                {
                    "book": opened.book.name,
                    "days": [day_json(report) for report in reports],
                    "state_digest": state,
                    "evidence": str(opened.files.evidence_dir / opened.book.name),
                    "process_seconds": {name: round(value, 3) for name, value in split.items()},
                    "seconds": round(seconds, 3),
                }
            )
        else:
            put_days(reports, currency=card.policy.reporting_currency)
            talk(f"state digest  {state}")
            talk(f"evidence      {opened.files.evidence_dir / opened.book.name}")
            talk("Dagster UI    make dev")
            talk("look closer   .venv/bin/compline close status DATE, .venv/bin/compline ledger trial-balance DATE")
            parts = ", ".join(f"{name} {value:.1f}" for name, value in split.items() if not is_step(name))
            talk(f"{seconds:.1f} s: {parts}")
        code = max((report.exit_code for report in reports), default=0)
        if code or len(reports) < len(wanted):
            raise typer.Exit(code or 1)


def card_of(settings: Settings, config: DemoConfig) -> BookCard:
    """The demo's book; one that is there, also of an earlier release, keeps the policy that it was made under."""
    policy = Policy(reporting_currency="USDT", cutoff=_text(config.cutoff_rule), **POLICY)
    card = BookCard(Book(settings.book, EXCHANGE, config.first_day), policy, config.seed)
    there = read_card(BookFiles(settings.home, settings.book))
    if there is None or there.book != card.book or there.policy == policy:
        return card
    talk(f"book {card.book.name} was made under another policy and keeps it; a new one: --book NAME")
    return replace(card, policy=there.policy)


def _text(rule: CutOffRule) -> str:
    return f"{rule.hour:02d}:{rule.minute:02d} {rule.zone}"


def _collect(opened: OpenBook, wanted: list[date]) -> dict[str, float]:
    """Read the simulated custody and chain at each cut-off, as a collector does; returns how long it took."""
    started = time.perf_counter()
    done = [one for day in wanted for one in collect(opened, day)]
    if any(one.result == "stored" for one in done):
        talk(f"read {len(done)} simulated wallets and contracts at {len(wanted)} cut-offs")
    return {"custody and chain": time.perf_counter() - started}


def _load(opened: OpenBook, config: DemoConfig) -> dict[str, float]:
    """Journal the demo and settle it; returns how long each took, in seconds."""
    started = time.perf_counter()
    with progress("matching orders") as bar:
        summary = load_demo(opened.files.journal_dir, config, progress=bar)
    if summary.already_loaded:
        talk(f"the journal holds the demo already: {summary.commands:,} commands, {summary.trades:,} trades")
    else:
        talk(f"matched {summary.commands:,} commands into {summary.trades:,} trades of {summary.accounts:,} accounts")
    loaded = time.perf_counter()
    with closing(connect(opened.url, autocommit=True)) as connection, typed_errors(), progress("settling") as bar:
        before = settled_to(connection)
        done = settle(
            connection, opened.files.journal_dir, progress=lambda seq: bar(seq - before, summary.commands - before)
        )
    if done.journals:
        talk(f"settled {done.trades:,} trades in {done.journals:,} journals")
    return {"matching": loaded - started, "settlement": time.perf_counter() - loaded}
