"""Batch after batch: one is sent and checked while the one before moves balances, and the next is made ready.

What belongs here: which batch goes when, over which of two connections, and what happens when one fails.
What does not: what a batch writes (see `settlement`), and the turns of two transactions (see `settlement_flight`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from types import TracebackType

import psycopg

from engine.errors import ComplineError
from engine.exchange.events import Event
from engine.store.settlement import Settler
from engine.store.settlement_batch import BATCH, Batch, ahead, in_batches
from engine.store.settlement_flight import Flight, OvertakenError, Settled

_PATIENCE_S = 5.0
"""For a batch that is being committed when the run ends by an error of something else; then it is cancelled."""


def settle_all(
    connection: psycopg.Connection,
    settler: Settler,
    batches: Iterable[Sequence[Event]],
    progress: Callable[[int], None] | None = None,
) -> Settled:
    """Settle a stream of event groups (one group a command), committing every `BATCH` events, in order.

    Args:
        connection: as the application role, outside a transaction; from the second batch on there is another like it.
        settler: names and caches.
        batches: groups of events of one sequence each, in order.
        progress: called with the last settled sequence after each commit.
    """
    with (
        ahead(map(settler.prepare, in_batches(batches, BATCH))) as prepared,
        _Pipeline(connection, settler, progress) as pipeline,
    ):
        for batch in prepared:
            pipeline.settle(batch)
        pipeline.finish()
        return pipeline.total


class _Pipeline:
    """Two transactions at most: one sends, one lands.

    Args:
        connection: carries every other batch.
        settler: names and caches.
        progress: called after each commit.
    """

    def __init__(
        self, connection: psycopg.Connection, settler: Settler, progress: Callable[[int], None] | None
    ) -> None:
        self._one = connection
        self._two: psycopg.Connection | None = None
        self._settler = settler
        self._progress = progress
        self._threads = ThreadPoolExecutor(2, "settlement-lands")
        self._landing: list[Flight] = []
        self.total = Settled()

    def settle(self, batch: Batch) -> None:
        """Send a batch and have it checked; it lands once the batch before has, which is waited for.

        Raises:
            Exception: what the batch before or this one is refused with; nothing of the one refused was written.
        """
        flight = self._send(batch)
        flight.landing = self._threads.submit(flight.land)
        self._landing.append(flight)
        if len(self._landing) > 1:
            try:
                self._finish()
            except BaseException:
                self._give_up(flight)
                raise

    def _send(self, batch: Batch) -> Flight:
        before = self._landing[-1] if self._landing else None
        if before is not None and before.landing is not None and not before.landing.done():
            try:
                return self._settler.send(self._beside(before), batch, before)
            except OvertakenError:
                pass
            except (psycopg.Error, ComplineError):
                # By itself it says what is wrong with it, or goes through: the two batches may touch the same record.
                self._settler.forget()
        self.finish()
        return self._settler.send(self._one, batch)

    def _beside(self, before: Flight) -> psycopg.Connection:
        if before.connection is not self._one:
            return self._one
        if self._two is None or self._two.closed:
            info = self._one.info
            self._two = psycopg.connect(**info.get_parameters(), password=info.password, autocommit=True)  # type: ignore[arg-type]
        return self._two

    def finish(self) -> None:
        """Wait until all batches under way have landed.

        Raises:
            Exception: what one is refused with.
        """
        while self._landing:
            self._finish()

    def _finish(self) -> None:
        """Wait until the first of the batches under way has landed, and tell of it before the next one commits."""
        flight, waited = self._landing[0], False
        try:
            flight.wait()
            waited = True
            self.total.trades += flight.done.trades
            self.total.journals += flight.done.journals
            self.total.already_there += flight.done.already_there
            self.total.last_seq = flight.done.last_seq
            if self._progress:
                self._progress(flight.done.last_seq)
            if not flight.told.cancelled():
                flight.told.set_result(None)
        except BaseException:
            flight.told.cancel()
            self._settler.forget()
            raise
        finally:
            # Not where a signal ended the waiting: it is still under way, or has landed and nobody was told.
            if waited or flight.landing is None or (flight.landing.done() and flight.landing.exception() is not None):
                self._landing.remove(flight)

    def _give_up(self, flight: Flight) -> None:
        """Have a batch rolled back whose predecessor has failed: it cannot commit any more, and may wait for a lock."""
        self._landing.remove(flight)
        assert flight.landing is not None
        while not flight.landing.done():
            with suppress(psycopg.Error):
                flight.connection.cancel_safe(timeout=2)
            wait([flight.landing], 0.2)

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            for flight in self._landing:
                if error is not None and flight.landing is not None and not wait([flight.landing], _PATIENCE_S).done:
                    with suppress(psycopg.Error):
                        flight.connection.cancel_safe(timeout=2)
            self.finish()
        finally:
            self._threads.shutdown()
            if self._two is not None:
                self._two.close()
