"""The closer's lease on a date: one holder at a time, known by an epoch that only grows.

What belongs here: taking, renewing and giving back the lease, and the session lock beside it.
What does not: the fence at the end of a transaction (see `engine.steps.runner`).
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import date
from types import TracebackType

import psycopg

from engine.errors import ComplineError
from engine.store.connect import connect, typed_errors

POLL_S = 0.25


class LeaseHeldError(ComplineError):
    """Another closer of the date is at work (exit 75: try again later)."""

    exit_code = 75


class CloseLease:
    """The lease on one close date, renewed in the background while it is held.

    A session-level advisory lock beside the lease keeps a second closer from starting, and tells a dead holder (its
    lock is gone) from one that is merely slow. Safety rests on the epoch alone: every writing transaction ends by
    checking it.

    Args:
        url: the book's database, as the application.
        close_date: which date.
        holder: who takes it; the run's id.
        ttl_s: how long it stays valid without renewal, in seconds.
        wait_s: how long to wait for another holder; a killed one's session takes the server a moment to miss.
    """

    def __init__(self, url: str, close_date: date, holder: str, ttl_s: int, *, wait_s: float = 5.0) -> None:
        self._url = url
        self.close_date = close_date
        self.holder = holder
        self.ttl_s = ttl_s
        self.wait_s = wait_s
        self.epoch = 0
        self._alone = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection | None = None

    def __enter__(self) -> CloseLease:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def take(self) -> int:
        """Take the lease and start renewing it.

        Returns:
            The epoch.

        Raises:
            LeaseHeldError: another holder has it.
        """
        connection = connect(self._url, autocommit=True, application="compline lease")
        try:
            with typed_errors():
                epoch = self._try(connection)
                for _ in range(int(self.wait_s / POLL_S)):
                    if epoch is not None:
                        break
                    time.sleep(POLL_S)
                    epoch = self._try(connection)
                if epoch is None:
                    raise self._held_by(connection)
        except BaseException:
            connection.close()
            raise
        self.epoch = epoch
        self._connection = connection
        self._thread = threading.Thread(target=self._renew, name=f"lease {self.close_date}", daemon=True)
        self._thread.start()
        return self.epoch

    def _try(self, connection: psycopg.Connection) -> int | None:
        """Take the lease if it can be had now; the epoch, or None."""
        self._lock(connection)
        got = connection.execute(
            "SELECT close.take_lease(%s, %s, %s, %s)", (self.close_date, self.holder, self.ttl_s, self._alone)
        ).fetchone()
        return int(got[0]) if got and got[0] is not None else None

    def _lock(self, connection: psycopg.Connection) -> None:
        """Hold the session lock, once it can be had: it is taken once a session, however often this is called."""
        if not self._alone:
            row = connection.execute(
                "SELECT pg_try_advisory_lock(hashtext('close.lease'), hashtext(%s))", (str(self.close_date),)
            ).fetchone()
            self._alone = bool(row and row[0])

    def _held_by(self, connection: psycopg.Connection) -> LeaseHeldError:
        row = connection.execute(
            "SELECT holder, epoch, CASE WHEN isfinite(expires_at) THEN 'until ' || to_char(expires_at, 'HH24:MI:SS')"
            " || ' UTC' ELSE 'given back this moment' END FROM close.leases WHERE close_date = %s",
            (self.close_date,),
        ).fetchone()
        who = f"{row[0]} (epoch {row[1]}, {row[2]})" if row else "another closer"
        return LeaseHeldError(
            f"{self.close_date} is being closed by {who}",
            rule="one closer a date",
            next_step="wait for it, or look at close.eod_runs and the Dagster run",
        )

    def _renew(self) -> None:
        assert self._connection is not None
        while not self._stop.wait(self.ttl_s / 3):
            try:
                # A holder that took over from a paused one: without the lock the next closer would think it dead.
                self._lock(self._connection)
                self._connection.execute(
                    "SELECT close.renew_lease(%s, %s, %s, %s)", (self.close_date, self.holder, self.epoch, self.ttl_s)
                )
            except psycopg.Error:
                return

    def release(self) -> None:
        """Give the lease back; a second call does nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                # The lock goes first: whoever took the lease while it was still ours would hold it without a lock, and
                # pass for dead as soon as this session ends.
                if self._alone:
                    connection.execute(
                        "SELECT pg_advisory_unlock(hashtext('close.lease'), hashtext(%s))", (str(self.close_date),)
                    )
                connection.execute("SELECT close.release_lease(%s, %s, %s)", (self.close_date, self.holder, self.epoch))
            connection.close()
