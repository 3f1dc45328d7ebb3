"""Command requests journalled by the close, where no service serves the exchange.

What belongs here: draining `exchange.command_requests` into the journal and settling the answers.
What does not: the requests as commands (see `engine.exchange.requests`), and the service's own drain (see
`engine.service.database_watch`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from engine.clock import CloseDate, CutOffs, to_us
from engine.errors import InputError, UncheckedError
from engine.exchange.errors import JournalLockedError
from engine.exchange.live import stamp_us
from engine.exchange.requests import CommandRequest, commands_of
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.steps.settling import settle
from engine.store import command_requests
from engine.store.connect import Connection


def journal_requests(
    connection: Connection, journal_dir: Path, *, first_day: CloseDate, cutoff_rule: CutOffs, now: datetime
) -> int:
    """Journal what the database asked for and nobody answered, in the order in which it was asked, once.

    Holding the journal, everything is settled first: what an earlier run journalled before it was killed is answered by
    that, so whatever is unanswered then is in no command. A journal that a service holds is left to that service.

    Args:
        connection: as the application role, outside a transaction.
        journal_dir: of the exchange.
        first_day: of the book.
        cutoff_rule: when a day ends.
        now: the present; a demo's or tape's requests get the time of the journal's last record.

    Returns:
        How many were journalled or refused.

    Raises:
        UncheckedError: a command did not answer its request; without this the same one would be journalled for ever.
    """
    if not _unanswered(connection):
        return 0
    try:
        sequencer = open_exchange(journal_dir, first_day=first_day, cutoff_rule=cutoff_rule)
    except JournalLockedError:
        return 0
    done: set[str] = set()
    with sequencer:
        settle(connection, journal_dir)
        while found := _unanswered(connection):
            if again := [request.key for request in found if request.key in done]:
                raise UncheckedError(
                    f"command request {again[0]} was journalled, and its settled command did not answer it",
                    rule="a request is answered by the command that it became",
                    next_step="compare exchange.command_requests.reference with the journal's record",
                )
            for request in found:
                at_us = stamp_us(journal_dir, sequencer.engine, to_us(now))
                parts = list(command_requests.in_parts(connection, request))
                # A refusal is a transaction of its own.
                connection.rollback()
                for part in parts:
                    _submit(connection, sequencer, part, at_us)
                done.add(request.key)
            sequencer.commit()
            settle(connection, journal_dir)
    return len(done)


def _unanswered(connection: Connection) -> list[CommandRequest]:
    found = command_requests.unanswered(connection)
    connection.rollback()
    return found


def _submit(connection: Connection, sequencer: Sequencer, request: CommandRequest, at_us: int) -> None:
    """Journal one request; what can be no command is answered as such."""
    try:
        for command in commands_of(request, sequencer.engine.registry):
            cancels = sequencer.engine.cancels_before(command)
            if cancels is not None:
                sequencer.submit(cancels, at_us)
            sequencer.submit(command, at_us)
    except InputError as error:
        with connection.transaction():
            command_requests.refuse(connection, request.key, str(error))
