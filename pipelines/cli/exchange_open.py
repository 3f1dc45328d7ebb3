"""`compline exchange open`: a book of one's own, from a file of what it begins with.

What belongs here: the command. What does not: the file and its journal (see `engine.exchange.opening`).
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from engine import clock
from engine.close.policy import Policy
from engine.errors import ConfigError, InputError, UsageError
from engine.exchange import opening
from engine.exchange.opening_file import Head, read_head
from engine.market.index import LAST_TRADE
from engine.steps.settling import settle
from engine.store.books import Book
from engine.store.connect import connect, typed_errors
from engine.store.moves import settled_to
from pipelines.books import BookCard, BookFiles, OpenBook, create_book, read_card
from pipelines.cli.options import BookName, DryRun, Json, settings_of
from pipelines.cli.output import errors, progress, put_json, put_table, talk
from pipelines.settings import DEFAULT_BOOK, check_book

FURTHEST_DAYS = 366


def open_exchange(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines; see docs/ops/opening.md.")],
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Open an exchange of your own: its policy, assets, markets, rates, accounts and opening balances.

    Run again, it changes nothing.
    """
    with errors(as_json=as_json):
        settings = settings_of(book)
        if settings.book == DEFAULT_BOOK:
            raise UsageError(f"a book {DEFAULT_BOOK}", rule="that is the demo's", next_step="name it: --book NAME")
        card = _card_of(check_book(settings.book), file, read_head(file))
        files, rule = BookFiles(settings.home, card.book.name), card.policy.cutoff_rule
        there = read_card(files)
        if there is None:
            _still_to_come(card)
        elif there != card:
            raise ConfigError(
                f"book {card.book.name} is there, and was not opened with this file: {_difference(there, card)}",
                rule="a book is opened once",
                next_step="another --book; what changes later is asked for (docs/ops/exchange.md)",
            )
        if dry_run:
            found, new = opening.check(file, card.book.first_day, rule), False
        else:
            files.folder.mkdir(parents=True, exist_ok=True)
            with progress("opening") as bar:
                found, new = opening.open_journal(
                    files.journal_dir, file, card.book.first_day, rule, progress=lambda done: bar(done, done)
                )
            _settle(create_book(settings, card, talk=talk), found.commands)
    counts = {name: getattr(found, name) for name in ("assets", "markets", "accounts", "balances")}
    if as_json:
        said = {"dry_run": True, "would": f"open book {card.book.name}"} if dry_run else {"new": new}
        put_json({"book": card.book.name, "first_day": str(card.book.first_day), **said, **counts})
        return
    put_table(["", "opened with"], [[name, f"{count:,}"] for name, count in counts.items()])
    if card.policy.mark_sources == (LAST_TRADE,):
        talk(
            "prices come from this exchange's last trades alone: a date on which an asset that somebody holds was not"
            f" traded in its last {card.policy.mark_max_age_s} s does not close: see docs/ops/opening.md"
        )
    if dry_run:
        talk(f"the file is right; nothing was opened. It would be book {card.book.name} from {card.book.first_day}")
        return
    talk(f"book {card.book.name} {'is open' if new else 'was open already'}, from {card.book.first_day}. Next:")
    talk(f"  compline keys init --book {card.book.name}")
    talk(f"  compline exchange serve --book {card.book.name}")


def _settle(opened: OpenBook, commands: int) -> None:
    """Have the ledger hold what the journal begins with."""
    with closing(connect(opened.url, autocommit=True)) as connection, typed_errors(), progress("settling") as bar:
        before = settled_to(connection)
        settle(
            connection, opened.files.journal_dir, commands, progress=lambda seq: bar(seq - before, commands - before)
        )


def _card_of(name: str, file: Path, head: Head) -> BookCard:
    """What the file's first line says."""
    try:
        # Written down whole: what a later release's default is, is not what this exchange began with.
        policy = replace(Policy.parse({"v": "policy/1", **head.policy}), written=None)
        policy.sha256  # noqa: B018 - a number that has no canonical form is refused here
    except ConfigError as error:
        raise InputError(f"{file}, line 1: {error.what}", rule=error.rule, next_step="correct the file") from None
    except ValueError as error:
        raise InputError(f"{file}, line 1: policy: {str(error)[:100]}", next_step="correct the file") from None
    return BookCard(Book(name, head.exchange, head.first_day), policy, None)


def _still_to_come(card: BookCard) -> None:
    """Refuse a first day that is over: served, all dates since would be cut off at once, and none of them closes."""
    rule, first = card.policy.cutoff_rule, card.book.first_day
    today = rule.date_of(clock.now())
    last = today + timedelta(days=FURTHEST_DAYS)
    if not today <= first <= last:
        raise InputError(
            f"first day {first}",
            rule=f"an exchange begins on the date that is open now, or within a year: {today} to {last}",
            next_step="correct the file's first line",
        )


def _difference(there: BookCard, card: BookCard) -> str:
    """Which of them is another."""
    if there.book != card.book:
        return f"it is {there.book.exchange} from {there.book.first_day}"
    return "its policy is another" if there.policy != card.policy else "it is a simulated exchange"
