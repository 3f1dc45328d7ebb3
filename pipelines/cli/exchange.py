"""`compline exchange`: serve the engine, or bring real trades through it.

What belongs here: the commands. What does not: reading a tape and driving the engine (see `engine.sim`).
"""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.clock import CloseDate, from_us, parse_close_date
from engine.close.policy import Policy
from engine.errors import UsageError
from engine.exchange.sequencer import open_exchange
from engine.sim.specs import STREAMS
from engine.sim.tape import Print, Selection, read_tape
from engine.sim.tape_import import ImportOptions, import_prints
from engine.steps.settling import settle
from engine.store.books import Book
from engine.store.connect import connect, typed_errors
from pipelines.books import BookCard, BookFiles, create_book, read_card
from pipelines.cli import exchange_conformance, exchange_open, exchange_request, exchange_serve
from pipelines.cli.options import BookName, DryRun, Json, settings_of
from pipelines.cli.output import errors, progress, put_dry_run, put_json, put_table, talk
from pipelines.key_store import load_keys
from pipelines.settings import DEFAULT_BOOK

app = typer.Typer(help="The matching engine and what drives it.", no_args_is_help=True)
app.command("conformance")(exchange_conformance.conformance)
app.command("replay")(exchange_conformance.replay)
app.command("serve")(exchange_serve.serve)
app.command("open")(exchange_open.open_exchange)
app.command("request")(exchange_request.request)

LONGEST_BOOK = 31
MARK_MAX_AGE_S = 86_400
"""A tape may end hours before its last cut-off."""


class TapeFormat(StrEnum):
    """Layouts that real tapes come in."""

    BINANCE_TRADES = "binance-trades"
    BINANCE_AGGTRADES = "binance-aggtrades"


@app.command("import-tape")
def import_tape(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file of real prints.")],
    tape_format: Annotated[TapeFormat, typer.Option("--format", help="How the file is laid out.")],
    market: Annotated[str, typer.Option(help="Which market's streams; symbols repeat across markets.")] = "spot",
    symbol: Annotated[list[str] | None, typer.Option(help="Only these symbols; repeat for several.")] = None,
    withhold: Annotated[
        list[str] | None,
        typer.Option(help="Prints that have not arrived yet, SYMBOL:FIRST-LAST; import them later with --late."),
    ] = None,
    late: Annotated[
        list[str] | None,
        typer.Option(help="Import only these prints, SYMBOL:FIRST-LAST: they arrive now and fall into the open day."),
    ] = None,
    gap: Annotated[
        list[str] | None, typer.Option(help="Trade ids known to be missing from the file, SYMBOL:FIRST-LAST.")
    ] = None,
    users: Annotated[int, typer.Option(min=2, help="Seeded users who trade the prints.")] = 200,
    seed: Annotated[int, typer.Option(help="Decides who trades what.")] = 1,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Turn each real print into a resting order and the taker order that hits it, in a book of its own."""
    started = time.perf_counter()
    with errors(as_json=as_json):
        selection = _selection(market, symbol, withhold, late, gap)
        prints = read_tape(file, tape_format.value, selection)
        if late:
            wanted = _ids(market, late)
            prints = [one for one in prints if (one.stream, one.trade_id) in wanted]
        settings = settings_of(book or _book_of(file))
        card = read_card(BookFiles(settings.home, settings.book)) or _card_of(settings.book, prints, seed)
        load_keys(settings, card)
        if dry_run:
            put_dry_run(
                f"would import {len(prints):,} prints into book {settings.book} from {card.book.first_day}",
                as_json=as_json,
            )
            return
        opened = create_book(settings, card, talk=talk)
        with (
            open_exchange(
                opened.files.journal_dir, first_day=card.book.first_day, cutoff_rule=card.policy.cutoff_rule
            ) as sequencer,
            progress("importing") as bar,
        ):
            done = import_prints(sequencer, prints, ImportOptions(users=users, seed=seed), progress=bar)
        with closing(connect(opened.url, autocommit=True)) as connection, typed_errors():
            settled = settle(connection, opened.files.journal_dir)
        result: dict[str, Any] = {
            "book": settings.book,
            "first_day": str(card.book.first_day),
            "last_day": str(card.policy.cutoff_rule.date_of(from_us(prints[-1].ts_ms * 1000))),
            "prints": done.prints,
            "imported": done.imported,
            "already_there": done.skipped,
            "trades_by_day": {str(day): count for day, count in sorted(done.trades_by_day.items())},
            "users": done.users,
            "settled_trades": settled.trades,
            "seconds": round(time.perf_counter() - started, 3),
        }
    if as_json:
        put_json(result)
        return
    if done.nothing_to_do:
        talk(f"book {settings.book} holds all {done.prints:,} prints already: nothing to do")
    put_table(["close date", "trades imported"], list(result["trades_by_day"].items()))
    talk(f"close them: compline close backfill {result['first_day']} {result['last_day']} --book {settings.book}")


def _selection(
    market: str, symbols: list[str] | None, withhold: list[str] | None, late: list[str] | None, gaps: list[str] | None
) -> Selection:
    if withhold and late:
        raise UsageError("--withhold and --late exclude each other", next_step="withhold first, import late afterwards")
    return Selection(
        market=market,
        symbols=tuple(symbols) if symbols else None,
        withheld=frozenset(_ids(market, withhold or [])),
        gaps=frozenset(_ids(market, gaps or [])),
        sparse=bool(late),
    )


def _ids(market: str, texts: list[str]) -> set[tuple[str, int]]:
    """`BTCUSDT:100-105` -> {(spot:BTCUSDT, 100), …}."""
    found: set[tuple[str, int]] = set()
    for text in texts:
        symbol, _, span = text.partition(":")
        first, _, last = span.partition("-")
        if not symbol or not first.isdigit() or (last and not last.isdigit()):
            raise UsageError(f"{text!r} is not SYMBOL:FIRST-LAST", next_step="e.g. BTCUSDT:3706124000-3706124010")
        ids = range(int(first), int(last or first) + 1)
        if not 0 < len(ids) <= 1_000_000:
            raise UsageError(f"{text!r} is an empty range, or one of more than a million trades")
        found |= {(f"{market}:{symbol}", number) for number in ids}
    return found


def _book_of(file: Path) -> str | None:
    """A book named after the tape, unless COMPLINE_BOOK names one."""
    if settings_of().book != DEFAULT_BOOK:
        return None
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in file.stem.lower()).strip("_")
    if len(name) > LONGEST_BOOK:
        # Tapes of one family differ at the end of their names: what is cut off stays in the name as a digest.
        name = f"{name[: LONGEST_BOOK - 7].rstrip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return name or None


def _card_of(book: str, prints: list[Print], seed: int) -> BookCard:
    """A new book for a tape: first day and reporting currency are the tape's."""
    quotes = {STREAMS[one.stream].quote for one in prints}
    if len(quotes) != 1:
        raise UsageError(
            f"the tape's streams are quoted in {', '.join(sorted(quotes))}",
            rule="a tape's reporting currency is its one quote asset",
            next_step="choose streams with --symbol",
        )
    policy = Policy(reporting_currency=quotes.pop(), mark_max_age_s=MARK_MAX_AGE_S)
    first: CloseDate = policy.cutoff_rule.date_of(from_us(prints[0].ts_ms * 1000))
    return BookCard(Book(book, f"{book.replace('_', '-')}.tape.example", parse_close_date(str(first))), policy, seed)
