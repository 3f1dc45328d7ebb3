"""Bring settlement to a sequence of the engine's journal.

What belongs here: joining the journal's events to the settlement consumer.
What does not: either of the two (see `engine.exchange.history`, `engine.store.settlement`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.exchange.errors import JournalBehindError
from engine.exchange.history import events_from, reaches
from engine.exchange.journal import journal_path
from engine.store.connect import Connection
from engine.store.moves import settled_to
from engine.store.settlement import Settler
from engine.store.settlement_flight import Settled
from engine.store.settlement_pipeline import settle_all


def settle(
    connection: Connection,
    journal_dir: Path,
    up_to_seq: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Settled:
    """Settle what the journal holds beyond the cursor, in order and once.

    Args:
        connection: as the application role, outside a transaction.
        journal_dir: of the exchange.
        up_to_seq: the last sequence to settle; None for all that is there.
        progress: called with the sequence after each committed batch.

    Raises:
        JournalBehindError: the journal ends before the cursor.
    """
    at = settled_to(connection)
    connection.rollback()
    if not reaches(journal_dir, at):
        raise JournalBehindError(journal_path(journal_dir), at)
    if up_to_seq is not None and at >= up_to_seq:
        return Settled(last_seq=at)
    with events_from(journal_dir, at, up_to_seq, answers=True) as stream:
        return settle_all(connection, Settler(stream.registry), stream, progress)
