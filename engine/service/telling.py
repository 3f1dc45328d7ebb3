"""The telling loop: what the exchange has committed is told on NATS, events once and in order, market data as it comes.

What belongs here: following the journal up to the committed sequence, the place reached, waiting out a broker that is
away. What does not: what is told (see `outbound`, `market_data`), and how it is published (see `engine.events`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from engine.errors import UncheckedError
from engine.events.broker import Broker, Respond
from engine.events.ordered_publisher import OrderedPublisher, Outgoing
from engine.exchange.errors import JournalWriteError
from engine.exchange.follower import JournalFollower
from engine.exchange.whole_file import write_atomically
from engine.service.market_data import SNAPSHOT, MarketData
from engine.service.outbound import Teller

CURSOR_NAME = "told.json"
_COMMANDS = 200
_WINDOW = 1_000
"""Messages on their way to JetStream at once."""
_RETRY_S = 0.25
_SAVE_EVERY_S = 0.2
_UNKNOWN = b'{"error":{"reason":"unknown_market"}}'
_TOO_LONG = b'{"error":{"reason":"too_long"}}'
_STATE_EVERY_S = 5.0
"""How often each market's book is stated."""


def read_cursor(directory: Path) -> int | None:
    """The last sequence whose events were all published; None where nothing was ever told.

    The file is fsynced once, when it begins. After a loss of power it may be older, or hold nothing, and then the
    stream's last id says what it holds.
    """
    try:
        return int(json.loads((directory / CURSOR_NAME).read_text())["seq"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def begin_cursor(directory: Path, seq: int) -> None:
    """Say, on the disk, that nothing up to a sequence is news: what follows is told, whatever happens.

    Raises:
        JournalWriteError: the disk refused.
    """
    try:
        write_atomically(directory / CURSOR_NAME, json.dumps({"seq": seq}).encode())
    except OSError as error:
        raise JournalWriteError(directory / CURSOR_NAME, error) from None


def write_cursor(directory: Path, seq: int) -> None:
    """Keep the last sequence told."""
    draft = directory / f".{CURSOR_NAME}"
    draft.write_text(json.dumps({"seq": seq}))
    draft.replace(directory / CURSOR_NAME)


class TellingLoop:
    """Tells one book's events and market data.

    Args:
        directory: of the exchange.
        committed: the last sequence that may be read.
        publisher: for events.
        broker: for market data.

    Attributes:
        told_seq: every event up to here is in the stream.
        ready: snapshots of books are answered.
    """

    def __init__(
        self, directory: Path, committed: Callable[[], int], publisher: OrderedPublisher, broker: Broker
    ) -> None:
        self._directory = directory
        self._committed = committed
        self._publisher = publisher
        self._broker = broker
        self.told_seq = read_cursor(directory) or 0
        self._follower = JournalFollower(directory, self.told_seq)
        self._teller = Teller(self._follower.engine)
        self._market_data = MarketData(self._follower.engine)
        self._wake = asyncio.Event()
        self._there: tuple[int, int] | None = None
        self._asked_stream = False
        self._saved_s = 0.0
        self._stated_s = time.monotonic()
        self.ready = False

    @property
    def behind(self) -> bool:
        """Whether something committed is not told."""
        return self.told_seq < self._committed()

    def wake(self) -> None:
        """Something was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        await self._broker.on_request(f"{SNAPSHOT}.>", self._answer_snapshot)
        await self._broker.flush()
        self.ready = True
        while True:
            await self._state()
            if not self.behind:
                self._save()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _STATE_EVERY_S)
                continue
            messages: list[Outgoing] = []
            for record, events in self._follower.read(self._committed(), _COMMANDS):
                messages.extend(self._teller.messages(record, events))
                for subject, data in self._market_data.apply(record, events):
                    await self._broker.tell(subject, data)
            for start in range(0, len(messages), _WINDOW):
                await self._publish(messages[start : start + _WINDOW])
            self.told_seq = self._follower.seq
            if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self._save()

    async def _state(self) -> None:
        """State every book, if it is time."""
        if time.monotonic() - self._stated_s < _STATE_EVERY_S:
            return
        self._stated_s = time.monotonic()
        for subject, data in self._market_data.states():
            await self._broker.tell(subject, data)

    def close(self) -> None:
        """Keep the place, give the journal back."""
        self._save()
        self._follower.close()

    async def _publish(self, messages: list[Outgoing]) -> None:
        """Publish, however long it takes; what the stream already holds is left out."""
        while True:
            try:
                if not self._asked_stream:
                    there = await self._publisher.last_published()
                    # An id beyond the journal is of another exchange that once had this book's name.
                    self._there = there if there is not None and there[0] <= self._committed() else None
                    self._asked_stream = True
                there = self._there
                await self._publisher.publish([m for m in messages if there is None or (m.seq, m.index) > there])
                return
            except UncheckedError:
                self._asked_stream = False
                await asyncio.sleep(_RETRY_S)

    async def _answer_snapshot(self, subject: str, data: bytes, respond: Respond) -> None:
        found = self._market_data.snapshot(subject.removeprefix(f"{SNAPSHOT}."))
        await respond(_UNKNOWN if found is None else fitting(found, self._broker.most_bytes))

    def _save(self) -> None:
        write_cursor(self._directory, self.told_seq)
        self._saved_s = time.monotonic()


def fitting(snapshot: bytes, most_bytes: int) -> bytes:
    """A snapshot as it is, or by zlib where the server would not take it: some five times as many levels fit."""
    if len(snapshot) <= most_bytes:
        return snapshot
    packed = zlib.compress(snapshot)
    return packed if len(packed) <= most_bytes else _TOO_LONG
