"""Whose time an exchange's journal keeps: the clock's since it was served, before that the one of a demo or a tape.

What belongs here: the mark that a service leaves, the time that a command gets which somebody else journals, and which
dates end at once where the clock's time begins.
What does not: the clock itself (see `engine.clock`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from engine.clock import CloseDate, CutOffs, from_us
from engine.exchange import history
from engine.exchange.engine import ExchangeEngine
from engine.exchange.journal import journal_path

MARK_NAME = "live"


def mark_live(directory: Path) -> None:
    """Say that this exchange has been served: from now on its time is the clock's."""
    (directory / MARK_NAME).touch()


def is_live(directory: Path) -> bool:
    """Whether this exchange was ever served."""
    return (directory / MARK_NAME).exists()


def live_since(directory: Path) -> datetime | None:
    """When this exchange was last begun to be served; None where it never was."""
    try:
        return from_us((directory / MARK_NAME).stat().st_mtime_ns // 1_000)
    except OSError:
        return None


def dates_behind(directory: Path, *, first_day: CloseDate, cutoff_rule: CutOffs, now: datetime) -> list[CloseDate]:
    """The dates whose cut-offs are journalled at once where this exchange is served now: they ended, and it has none.

    Args:
        directory: of the exchange.
        first_day: its first close date; day zero before it ends at once in every new exchange, and is not counted.
        cutoff_rule: when a day ends.
        now: the clock's time.

    Raises:
        InputError: the journal cannot be read.
        JournalCorruptError: a cut-off's record does not hold.
    """
    ended = history.cut_offs(directory) if journal_path(directory).exists() else []
    day = ended[-1].close_date + timedelta(days=1) if ended else first_day
    found = []
    while cutoff_rule.instant(day) <= now:
        found.append(day)
        day += timedelta(days=1)
    return found


def stamp_us(directory: Path, engine: ExchangeEngine, now_us: int) -> int:
    """The time of a command that is journalled where no service runs.

    Of a demo or a tape, whose days may lie years back, the last record's: at the clock's time, one command would
    journal the cut-off of every day since.
    """
    return max(engine.last_ts_us, now_us) if is_live(directory) else engine.last_ts_us
