"""The settlement loop: what the exchange has committed reaches the ledger, in order, as soon as Postgres takes it.

What belongs here: following the journal up to the committed sequence, batches, waiting out a database that is away.
What does not: what a batch posts (see `engine.store.settlement`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from engine.errors import ComplineError, UncheckedError
from engine.exchange.codec import JournalRecord
from engine.exchange.commands import Marker
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event
from engine.exchange.follower import JournalFollower
from engine.exchange.requests import answer_of
from engine.store.connect import Connection, connect, typed_errors
from engine.store.moves import settled_to
from engine.store.settlement import Settler

_COMMANDS = 5_000
_LINGER_S = 0.05
"""Between two batches, so that a trickle of orders does not become a transaction each."""
_RETRY_S = 0.5
_REFUSED_RETRY_S = 5.0

AtMarker = Callable[[Connection, ExchangeEngine, JournalRecord], None]


class SettlementLoop:
    """One settlement consumer of one book.

    Args:
        url: the book's database, as the application.
        directory: of the exchange.
        committed: the last sequence that may be read.
        compare: called when exactly everything up to a marker is settled, before anything after it is.

    Attributes:
        settled_seq: everything up to here is in the ledger.
        state: `ok`, `unreachable` (it goes on by itself) or `refused` (a person must look), with the reason.
    """

    def __init__(self, url: str, directory: Path, committed: Callable[[], int], compare: AtMarker) -> None:
        self._compare = compare
        self._marker: JournalRecord | None = None
        self._url = url
        self._directory = directory
        self._committed = committed
        self._connection: Connection | None = None
        self._follower: JournalFollower | None = None
        self._settler: Settler | None = None
        self._pending: list[Event] = []
        self.settled_seq = 0
        self.state = "ok"
        self.reason = ""

    @property
    def behind(self) -> bool:
        """Whether something committed is not settled."""
        return self.settled_seq < self._committed()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            if not self.behind:
                await asyncio.sleep(_LINGER_S)
                continue
            try:
                await asyncio.to_thread(self._settle_batch)
                self.state, self.reason = "ok", ""
            except UncheckedError as error:
                self._start_over("unreachable", error)
                await asyncio.sleep(_RETRY_S)
            except ComplineError as error:
                self._start_over("refused", error)
                await asyncio.sleep(_REFUSED_RETRY_S)
            else:
                await asyncio.sleep(_LINGER_S)

    def close(self) -> None:
        """Give connection and journal back."""
        self._disconnect()
        if self._follower is not None:
            self._follower.close()

    def _settle_batch(self) -> None:
        """Settle what is there, at most one batch."""
        if self._connection is None:
            self._connection = connect(self._url, autocommit=True, application="compline settlement")
        with typed_errors():
            at = settled_to(self._connection)
            if self._follower is None or self._follower.seq < at:
                # Another run of the consumer (a close's) got further.
                if self._follower is not None:
                    self._follower.close()
                self._pending.clear()
                self._follower = JournalFollower(self._directory, min(at, self._committed()))
                self._settler = None
                # A marker that was settled and perhaps not compared: whoever did the one was killed before the other.
                self._marker = self._follower.last_record(Marker)
            if self._settler is None:
                self._settler = Settler(self._follower.engine.registry)
            if not self._pending and self._marker is None:
                for record, events in self._follower.read(self._committed(), _COMMANDS):
                    self._pending.extend(events)
                    if (answer := answer_of(record, events)) is not None:
                        self._pending.append(answer)
                    if isinstance(record.command, Marker):
                        self._marker = record
                        break
            if self._pending:
                self._settler.settle(self._connection, self._pending)
                self._pending.clear()
        if self._marker is not None:
            self._compare(self._connection, self._follower.engine, self._marker)
            self._marker = None
        self.settled_seq = self._follower.seq

    def _start_over(self, state: str, error: ComplineError) -> None:
        """A failed batch stays pending; what the settler remembers of it was rolled back, so that goes."""
        self.state, self.reason = state, str(error)
        self._settler = None
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None
