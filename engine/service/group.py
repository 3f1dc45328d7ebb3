"""Group commit: what arrives while a group is on its way to the disk makes the next group.

What belongs here: the queue of messages, one fsync a group, replies after it, the timed cut-off.
What does not: what a message does (see `desk`), and who brings it (see `server`).

Nothing is submitted while a group commits: the sequencer is used by one thread at a time. A message waits for at most
the fsync under way and its own. Where that is usually quicker than a thread's wake-up, the loop waits for it
itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from engine import clock
from engine.clock import from_day_number, to_us
from engine.errors import ComplineError, InputError
from engine.service.desk import Desk, Reply, refusal
from engine.service.messages import PARSERS, RefusedMessageError, Request
from engine.service.metrics import Metrics

GROUP_LIMIT = 512
"""Messages of one group: more would keep the loop from reading on."""
QUEUE_LIMIT = 100_000
_LONGEST_WAIT_S = 60.0
_QUICK_S = 0.0004
"""A disk that takes less is waited for: the way to a thread and back takes 0.1 to 0.2 ms itself."""
_WEIGHT = 0.1
"""What a commit counts in the usual time. One slow commit says little of the next, and sent to the thread for it those
would be slower; where every commit is slow, the thread has them after a few."""

Answer = Callable[[Reply], Awaitable[None]]


class Waiting(NamedTuple):
    """A message in the queue, read, or why it cannot be; and how to answer it."""

    subject: str
    request: Request | RefusedMessageError
    answer: Answer
    arrived_s: float


class GroupCommitter:
    """Takes messages, submits them in groups and answers after the commit.

    Args:
        desk: what a message does.
        metrics: counts.
        committed: called with the last sequence on the disk after each group.
        now_us: the present, in microseconds since 1970.

    Attributes:
        committed_seq: the last sequence on the disk.
        failed: why nothing is taken any more.
    """

    def __init__(
        self,
        desk: Desk,
        metrics: Metrics,
        committed: Callable[[int], None],
        now_us: Callable[[], int] = lambda: to_us(clock.now()),
    ) -> None:
        self._desk = desk
        self._metrics = metrics
        self._tell_committed = committed
        self.committed_seq = desk.sequencer.engine.last_seq
        self._now_us = now_us
        self._waiting: list[Waiting] = []
        self._wake = asyncio.Event()
        self._closing = False
        self.failed: ComplineError | None = None
        self._usual_s = _QUICK_S

    def put(self, subject: str, data: bytes, answer: Answer, *, limit: int = QUEUE_LIMIT) -> bool:
        """Queue a message; false where so many wait already, and then it is the caller's to answer."""
        if len(self._waiting) >= limit or self._closing or self.failed is not None:
            self._metrics.messages[subject, "overloaded"] += 1
            return False
        arrived_s = time.perf_counter()
        # Read at once: while a group is on its way to the disk there is nothing else to do.
        self._waiting.append(Waiting(subject, _read(subject, data), answer, arrived_s))
        self._wake.set()
        return True

    def close(self) -> None:
        """Take nothing more; `run` ends once what is queued has been answered."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Commit group after group until `close`.

        Raises:
            JournalWriteError: the disk refused; the group is not acknowledged, and nothing after it is taken.
        """
        watching = asyncio.create_task(self._watch_cutoff())
        try:
            await self._commit_groups()
        finally:
            watching.cancel()

    async def _commit_groups(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting[:GROUP_LIMIT], self._waiting[GROUP_LIMIT:]
            if self._waiting:
                self._wake.set()
            if not group and self._closing:
                return
            try:
                replies = self._submit(group)
                await self._commit()
            except ComplineError as error:
                self.failed = error
                raise
            try:
                await self._answer(group, replies)
            finally:
                # After the answers: whoever hears of it begins to settle and tell, on the same processors.
                self._tell_committed(self.committed_seq)
            if self._closing:
                self._wake.set()

    async def _watch_cutoff(self) -> None:
        """Wake the committer at the cut-off of the open day, so that a quiet market's day ends too."""
        while True:
            left = (self._cutoff_us() - self._now_us()) / 1e6
            if left <= 0:
                self._wake.set()
            # Not in one sleep: the clock may be set meanwhile.
            await asyncio.sleep(max(0.05, min(left, _LONGEST_WAIT_S)))

    def _cutoff_us(self) -> int:
        sequencer = self._desk.sequencer
        return to_us(sequencer.cutoff_rule.instant(from_day_number(sequencer.engine.open_day)))

    def _submit(self, group: list[Waiting]) -> list[Reply]:
        now_us = self._now_us()
        if not group:
            # With messages, the first of them brings the cut-off.
            while self._cutoff_us() <= now_us:
                self._desk.sequencer.cut_off(from_day_number(self._desk.sequencer.engine.open_day), at_us=now_us)
        return [self._handle(one, now_us) for one in group]

    def _handle(self, one: Waiting, now_us: int) -> Reply:
        """The reply to a message: whatever is wrong with it is an answer, and the service goes on."""
        try:
            if isinstance(one.request, RefusedMessageError):
                raise one.request
            reply = self._desk.handle(one.request, now_us)
        except RefusedMessageError as error:
            self._metrics.messages[one.subject, error.reason] += 1
            return refusal(error)
        except InputError as error:
            self._metrics.messages[one.subject, "does_not_fit"] += 1
            return refusal(RefusedMessageError("does_not_fit", error.what))
        self._metrics.messages[one.subject, "done" if reply.get("success", True) else "rejected"] += 1
        return reply

    async def _commit(self) -> None:
        if self._usual_s < _QUICK_S:
            took_s = self._timed_commit()
        else:
            took_s = await asyncio.get_running_loop().run_in_executor(None, self._timed_commit)
        self._usual_s += _WEIGHT * (min(took_s, 2 * _QUICK_S) - self._usual_s)
        self._metrics.commit.observe(took_s)
        self.committed_seq = self._desk.sequencer.engine.last_seq

    def _timed_commit(self) -> float:
        """Commit; how long the disk took, without the way to a thread and back."""
        started = time.perf_counter()
        self._desk.sequencer.commit()
        return time.perf_counter() - started

    async def _answer(self, group: list[Waiting], replies: list[Reply]) -> None:
        for one, reply in zip(group, replies, strict=True):
            await one.answer(reply)
            self._metrics.acknowledge.observe(time.perf_counter() - one.arrived_s)


def _read(subject: str, data: bytes) -> Request | RefusedMessageError:
    try:
        return PARSERS[subject](data)
    except RefusedMessageError as error:
        return error
