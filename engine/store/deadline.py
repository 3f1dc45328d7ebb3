"""The hard limit of a step, in the process: an alarm that cancels and closes its connection.

What belongs here: the alarm. What does not: the limit in Postgres (`transaction_timeout`, set by the runner).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psycopg

from engine.errors import StepTimeoutError

GRACE_S = 2.0
"""Postgres ends the transaction at the limit; the process waits this much longer before it speaks."""


@contextmanager
def deadline(connection: psycopg.Connection, limit_s: float, what: str) -> Iterator[None]:
    """Raise in the work inside once the limit has passed, and make sure that its query is gone.

    On the main thread a signal interrupts whatever runs, computation included; elsewhere a timer cancels the query.

    Raises:
        StepTimeoutError: the limit passed.
    """
    error = StepTimeoutError(
        f"{what} ran past its limit of {limit_s:g} s and was cancelled",
        rule="a step has a hard limit",
        next_step="see close.eod_runs and the step's runbook; it can be run again",
    )

    def drop() -> None:
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=2)

    if threading.current_thread() is threading.main_thread():

        def ring(signum: int, frame: FrameType | None) -> None:
            raise error

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S)
        try:
            yield
        except StepTimeoutError:
            drop()
            connection.close()
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    timer = threading.Timer(limit_s + GRACE_S, drop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
