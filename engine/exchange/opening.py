"""An exchange's beginning: the commands of day zero, run and journalled whole or not at all.

What belongs here: running an opening file through an engine, into a new journal or against one that is there.
What does not: the file (see `opening_file`), the book's database and files (see `pipelines`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from engine.clock import CloseDate, CutOffRule, CutOffs, day_number, to_us
from engine.errors import InputError
from engine.exchange import codec, opening_file
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Command, OpeningBalance, SetAsset, SetMarket
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalMismatchError, JournalWriteError
from engine.exchange.events import Rejected
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.journal_writer import JournalWriter, Sink
from engine.exchange.sequencer import Sequencer
from engine.exchange.whole_file import sync_folder

_GROUP = 10_000
_DRAFT = ".opening-"
_ASK_AGAIN = "correct it; nothing was asked for"
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Opened:
    """What an exchange begins with, in numbers."""

    commands: int
    assets: int
    markets: int
    accounts: int
    balances: int


def check(path: Path, first_day: CloseDate, cutoff_rule: CutOffs) -> Opened:
    """Run a file through an engine that nobody keeps.

    Raises:
        InputError: a line breaks a rule, or the engine refuses it.
    """
    return _run(path, first_day, cutoff_rule, _Chain(None))


def listing(known: Sequence[SetAsset | SetMarket], line: Mapping[str, Any]) -> SetAsset | SetMarket:
    """The command of one more asset or market, or of a listed market's other limits, as an engine would take it.

    Args:
        known: what is listed already, assets before their markets.
        line: kind `asset` or `market`, and its fields.

    Raises:
        InputError: it breaks a rule, or the engine refuses it.
    """
    sequencer = Sequencer(ExchangeEngine(1), _Chain(None), cutoff_rule=CutOffRule(24, 0, "UTC"))
    where = f"{line['kind']} {str(line.get(line['kind']))[:40]}"
    there = next((c for c in known if isinstance(c, SetMarket) and c.symbol == line.get("market")), None)
    try:
        for command in known:
            if command is not there:
                sequencer.submit(command, 0)
        found = opening_file.command_of(where, line, sequencer.engine.state)
        assert isinstance(found, SetAsset | SetMarket), "those are the kinds"
        if isinstance(found, SetAsset):
            found = replace(found, asset=max((c.asset for c in known if isinstance(c, SetAsset)), default=0) + 1)
        else:
            number = max((c.market for c in known if isinstance(c, SetMarket)), default=0) + 1
            found = replace(found, market=number if there is None else there.market)
            if there is not None and replace(found, limits=there.limits) != there:
                rule = "of a listed market only limits change: base, quote, tick and lot are left out, or as they are"
                raise InputError(f"{where} is listed, with another base, quote, tick or lot", rule=rule)
        refusal = next((e for e in sequencer.submit(found, 0) if isinstance(e, Rejected)), None)
    except InputError as error:
        raise InputError(error.what, rule=error.rule, next_step=_ASK_AGAIN) from None
    if refusal is not None:
        words = refusal.reason.name.lower().replace("_", " ")
        raise InputError(f"{where}: {words}", rule="the exchange would refuse it", next_step=_ASK_AGAIN)
    return found


def open_journal(
    directory: Path, path: Path, first_day: CloseDate, cutoff_rule: CutOffs, *, progress: Progress | None = None
) -> tuple[Opened, bool]:
    """Have a journal that begins with a file's commands.

    A new one is written beside its place and put there when it is whole. One that is there is compared, and left.

    Args:
        directory: of the exchange; none, or empty, or with its journal.
        path: the file.
        first_day: its first close date.
        cutoff_rule: when a day ends.
        progress: called with the number of commands so far.

    Returns:
        What it begins with, and whether it is new.

    Raises:
        InputError: a line breaks a rule, or the engine refuses it.
        JournalMismatchError: the journal that is there begins otherwise.
        JournalWriteError: the disk refused.
    """
    _sweep(directory.parent)
    if journal_path(directory).exists():
        with JournalReader(journal_path(directory)) as reader:
            return _run(path, first_day, cutoff_rule, _Chain(reader), progress), False
    draft = directory.with_name(f"{_DRAFT}{os.getpid()}")
    try:
        with contextlib.closing(JournalWriter(draft, first_day=day_number(first_day))) as writer:
            found = _run(path, first_day, cutoff_rule, writer, progress)
        os.rename(draft, directory)
        sync_folder(directory.parent)
    except OSError as error:
        if not journal_path(directory).exists():
            raise JournalWriteError(directory, error) from None
        # Another run of the command was quicker.
        return open_journal(directory, path, first_day, cutoff_rule, progress=progress)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return found, True


def _sweep(folder: Path) -> None:
    """Remove the drafts of processes that are gone."""
    for left in folder.glob(f"{_DRAFT}*"):
        process = left.name.removeprefix(_DRAFT)
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)


class _Chain:
    """A sink that keeps nothing, and holds each record to the one of a journal, if there is one."""

    def __init__(self, journal: JournalReader | None) -> None:
        self._journal = journal
        self._there: Iterator[bytes] | None = None if journal is None else journal.raw_records()
        self._crc = 0 if journal is None else journal.header_crc
        self._seq = 0

    def append(self, command: Command, ts_us: int) -> JournalRecord:
        """The next record.

        Raises:
            JournalMismatchError: the journal holds another one there, or none.
        """
        self._seq += 1
        raw, record = codec.encode(self._seq, ts_us, command, self._crc)
        if self._journal is not None and self._there is not None and raw != next(self._there, None):
            raise JournalMismatchError(
                f"journal {self._journal.path}: record {self._seq} is not what the file says, {str(command)[:100]}",
                rule="an exchange is opened once; what changes later is asked for (docs/ops/exchange.md)",
                next_step="open the file that it was opened with, or another --book",
            )
        self._crc = record.crc
        return record

    def commit(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _run(
    path: Path, first_day: CloseDate, cutoff_rule: CutOffs, sink: Sink, progress: Progress | None = None
) -> Opened:
    """Give an engine every command of a file, as of the last instant of day zero."""
    sequencer = Sequencer(ExchangeEngine(day_number(first_day)), sink, cutoff_rule=cutoff_rule)
    registry = sequencer.engine.registry
    ts_us = to_us(cutoff_rule.instant(first_day - timedelta(days=1))) - 1
    balances, done = 0, 0
    for done, (where, command) in enumerate(opening_file.commands(path, sequencer.engine.state), start=1):
        try:
            events = sequencer.submit(command, ts_us)
        except InputError as error:
            raise opening_file.refused(where, error.what, error.rule) from None
        for event in events:
            if isinstance(event, Rejected):
                words = event.reason.name.lower().replace("_", " ")
                raise opening_file.refused(where, words, "the exchange takes each line as its first day would")
        balances += isinstance(command, OpeningBalance)
        if done % _GROUP == 0:
            sink.commit()
            if progress is not None:
                progress(done)
    if not registry.markets:
        raise opening_file.refused(f"{path}, its end", "no market", "an exchange has a market")
    currency = opening_file.read_head(path).policy.get("reporting_currency")
    if currency not in registry.asset_by_symbol:
        what = f"the policy's reporting_currency {str(currency)[:40]!r} has no line"
        raise opening_file.refused(f"{path}, its end", what, "what balances are valued in is an asset of the exchange")
    return Opened(done, len(registry.assets), len(registry.markets), len(registry.accounts), balances)
