"""`compline market`: prices from outside, collected and loaded.

What belongs here: polling venues and reading price files. What does not: marks of a day (see `compline close`).
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import clock
from engine.clock import iso_us
from engine.errors import ComplineError, ConfigError, InputError, UncheckedError
from engine.gateways import venues
from engine.market.index import INDEX, LAST_TRADE
from engine.market.readings import price_of, raw_of
from engine.store import market
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, talk

app = typer.Typer(help="Prices from outside: collected from venues, loaded from files.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Option("--venue", help="Ask this venue; default those of the policy.")]
Every = Annotated[int, typer.Option("--every", min=0, help="Ask again after so many seconds; 0 asks once.")]
ReadingsFile = Annotated[
    Path | None, typer.Option("--file", help="Store readings of this JSON Lines file instead of asking venues.")
]


@app.command("collect")
def collect(
    venue: Names = None,
    every: Every = 0,
    file: ReadingsFile = None,
    book: BookName = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Store what venues say, raw and once; the close reads it later, and never asks by itself."""
    with errors(as_json=as_json):
        there = opened(book)
        today = there.card.policy.cutoff_rule.date_of(clock.now())
        policy = there.policy_on(max(there.book.first_day, today))
        if file is not None:
            known = {name for name, _ in policy.index_venues}
            done = _store(there, list(readings_in(file, known, clock.now())), dry_run)
            put_json(done) if as_json else talk(f"{done['stored']} readings stored, {done['known']} known before")
            return
        names = venue or [name for name, _ in policy.index_venues]
        if not names:
            raise ConfigError(
                f"book {there.book.name} has no venues to ask",
                rule="the policy's index_venues, or --venue",
                next_step=f"compline market collect --venue {venues.NAMES[0]}",
            )
        asked = [venues.by_name(name) for name in names]
        with closing(connect(there.url)) as connection, typed_errors():
            coins = market.coins(connection)
        currency = policy.reporting_currency
        symbols = [f"{coin}/{currency}" for coin in coins if coin != currency]
        while True:
            found, failed = poll(asked, symbols)
            done = _store(there, found, dry_run) | {"failed": failed}
            put_json(done) if as_json else talk(f"{done['stored']} readings stored" + "".join(f"; {f}" for f in failed))
            if not every:
                break
            time.sleep(every)
        if failed:
            raise UncheckedError(
                f"{len(failed)} of {len(asked)} venues gave no tickers", next_step="the next poll asks again"
            )


@app.command("load")
def load(
    file: Annotated[Path, typer.Argument(help="CSV with the columns asset, at, price, source.")],
    book: BookName = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Add price ticks of a source that the policy names; a tick that is there already stays as it was."""
    with errors(as_json=as_json):
        there = opened(book)
        now = clock.now()
        policy = there.policy_on(max(there.book.first_day, there.card.policy.cutoff_rule.date_of(now)))
        with closing(connect(there.url, autocommit=True)) as connection, typed_errors():
            ticks = list(ticks_in(file, set(market.coins(connection)), set(policy.mark_sources), now))
            if not dry_run:
                with connection.transaction():
                    new = market.insert_ticks(connection, ticks)
        said = {"book": there.book.name, "ticks": len(ticks), "new": 0 if dry_run else new}
        put_json(said) if as_json else talk(f"{said['ticks']} ticks read, {said['new']} new")


def poll(asked: list[venues.Venue], symbols: list[str]) -> tuple[list[tuple[str, datetime, bytes]], list[str]]:
    """Ask each venue once; what they said is of one instant, the end of the poll."""
    said, failed = [], []
    for one in asked:
        try:
            said.append((one.id, venues.ask(one, symbols)))
        except ComplineError as error:
            failed.append(error.what)
    at = clock.now()
    return [(name, at, raw) for name, raw in said], failed


def readings_in(path: Path, known: set[str], now: datetime) -> Iterator[tuple[str, datetime, bytes]]:
    """Readings of a JSON Lines file: {"venue", "at", "tickers": {symbol: {"last", "timestamp"}}} a line.

    Raises:
        InputError: a line is anything else, of the future, or of a venue that the policy does not name; it is named.
    """
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path.name}, line {number}"
        try:
            # Numbers keep their own digits on the way from one text to the other.
            found = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
        except ValueError as error:
            raise InputError(f"{where}: no JSON: {error}", next_step="one object a line") from None
        name = found.get("venue") if isinstance(found, dict) else None
        tickers = found.get("tickers") if isinstance(found, dict) else None
        if not isinstance(name, str) or not isinstance(tickers, dict):
            raise InputError(f"{where}: a reading has venue, at and tickers", next_step="see docs/finance/marks.md")
        if name not in known:
            raise InputError(
                f"{where}: source {name[:80]!r} is not known",
                rule="a venue that the policy's index_venues name",
                next_step="name the venue in the policy, or correct the file",
            )
        if not all(isinstance(one, dict) for one in tickers.values()):
            raise InputError(f"{where}: a ticker is an object with last and timestamp")
        yield name, _instant(found.get("at"), where, now), raw_of(tickers)


def ticks_in(path: Path, coins: set[str], sources: set[str], now: datetime) -> Iterator[market.Tick]:
    """Ticks of a CSV file.

    Raises:
        InputError: a row has an asset or source that the book does not know, a price that is none, or lies ahead.
    """
    rows = csv.DictReader(_lines(path))
    if rows.fieldnames is None or set(rows.fieldnames) != {"asset", "at", "price", "source"}:
        raise InputError(f"{path.name}: its columns are {rows.fieldnames}", rule="asset, at, price, source")
    for number, row in enumerate(rows, start=2):
        where = f"{path.name}, line {number}"
        if row["asset"] not in coins:
            raise InputError(f"{where}: asset {row['asset']!r} is not one of this book")
        if row["source"] not in sources - {INDEX, LAST_TRADE}:
            raise InputError(
                f"{where}: source {row['source']!r} is not known",
                rule="a source that the policy's mark_sources name; index and last_trade make their own ticks",
                next_step="name the source in the policy, or correct the file",
            )
        yield row["asset"], _instant(row["at"], where, now), price_of(row["price"], where), row["source"]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _instant(text: object, where: str, now: datetime) -> datetime:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InputError(
            f"{where}: {str(text)[:80]!r} is no instant", rule="ISO 8601 with an offset, e.g. 2026-03-02T23:59:30Z"
        )
    if at > now:
        raise InputError(f"{where}: {iso_us(at)} has not come", rule="no price of the future")
    return at


def _store(there: OpenBook, found: list[tuple[str, datetime, bytes]], dry_run: bool) -> dict[str, Any]:
    """Store readings as the collector, whose login can do nothing else."""
    if dry_run:
        return {"book": there.book.name, "stored": 0, "known": 0, "read": len(found)}
    with closing(connect(there.servers.collector.dsn(), autocommit=True)) as connection, typed_errors():
        stored = sum(market.store_reading(connection, name, at, raw) for name, at, raw in found)
    return {"book": there.book.name, "stored": stored, "known": len(found) - stored, "read": len(found)}
