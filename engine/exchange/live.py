"""Whose time an exchange's journal keeps: the clock's since it was served, before that the one of a demo or a tape.

What belongs here: the mark that a service leaves, and the time that a command gets which somebody else journals.
What does not: the clock itself (see `engine.clock`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from engine.clock import from_us
from engine.exchange.engine import ExchangeEngine

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


def stamp_us(directory: Path, engine: ExchangeEngine, now_us: int) -> int:
    """The time of a command that is journalled where no service runs.

    Of a demo or a tape, whose days may lie years back, the last record's: at the clock's time, one command would
    journal the cut-off of every day since.
    """
    return max(engine.last_ts_us, now_us) if is_live(directory) else engine.last_ts_us
