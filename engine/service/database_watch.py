"""What the database tells a running exchange: commands that it asks for, when days end, how often there is a marker.

What belongs here: waiting for both beside the settlement loop, and offering them to the exchange.
What does not: journalling a request (see `desk`), answering it (settlement does, from the journal).

An offer names the sequence that was settled before the requests were read: none of them is in a command up to it. The
exchange remembers what it journalled since it started and takes no offer that is older than its start, so a request is
journalled once, whoever of the two is killed. What stays unanswered is offered again after a while, and known there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import ComplineError, UncheckedError
from engine.exchange.requests import STAGING, CommandRequest
from engine.store import books, command_requests, markers
from engine.store.connect import Connection, connect, typed_errors

_WAIT_S = 0.5
_RETRY_S = 1.0
_OFFER = 50
"""Requests of one line: a payload has at most 8,192 bytes, and a line must fit the other side's buffer."""
LINE_BYTES = 1 << 20
_POLICIES_EVERY = 10
_AGAIN_AFTER = 20
"""Rounds of at most `_WAIT_S`."""

Offer = Callable[[str], None]


class DatabaseWatch:
    """Offers what the database asks for.

    Args:
        url: the book's database, as the application.
        settled: the last settled sequence.
        since: the exchange's last sequence when it started; nothing is offered before that is settled.
        offer: takes a line of JSON.

    Attributes:
        waiting: requests that were unanswered when they were last read.
    """

    def __init__(self, url: str, settled: Callable[[], int], since: int, offer: Offer) -> None:
        self._url = url
        self._settled = settled
        self._since = since
        self._offer = offer
        self._connection: Connection | None = None
        self._refusals: list[tuple[str, str]] = []
        self._policies = ""
        self._rounds = 0
        self._offered: dict[str, int] = {}
        self.waiting = 0

    def refused(self, key: str, why: str) -> None:
        """The exchange said that a request can be no command."""
        self._refusals.append((key, why))

    async def run(self) -> None:
        """Offer until cancelled; a database that is away is asked again."""
        while True:
            try:
                for line in await asyncio.to_thread(self._round):
                    self._offer(line)
            except UncheckedError:
                self.close()
                await asyncio.sleep(_RETRY_S)
            except ComplineError:
                # Settlement says what is wrong with this database; here is nothing to add.
                self.close()
                await asyncio.sleep(10 * _RETRY_S)

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _round(self) -> list[str]:
        """Wait for a request at most `_WAIT_S`, then read all that is there."""
        with typed_errors():
            if self._connection is None:
                self._connection = connect(self._url, autocommit=True, application=command_requests.LISTENER)
                self._connection.execute(f"LISTEN {command_requests.CHANNEL}".encode())
                self._policies, self._rounds, self._offered = "", 0, {}
            else:
                for _ in self._connection.notifies(timeout=_WAIT_S, stop_after=1):
                    pass
            while self._refusals:
                command_requests.refuse(self._connection, *self._refusals[0])
                del self._refusals[0]
            lines = [*self._changed_policies(self._connection)]
            settled = self._settled()
            if settled < self._since:
                return lines
            found = command_requests.unanswered(self._connection)
            self.waiting = len(found)
            return [*lines, *_offers(self._connection, self._fresh(found), settled)]

    def _fresh(self, found: list[CommandRequest]) -> list[CommandRequest]:
        """Those that were not offered lately, in their order."""
        lately = {one.key: self._offered[one.key] for one in found if one.key in self._offered}
        due = [one for one in found if self._rounds - lately.get(one.key, -_AGAIN_AFTER) >= _AGAIN_AFTER]
        self._offered = lately | {one.key: self._rounds for one in due}
        return due

    def _changed_policies(self, connection: Connection) -> Iterator[str]:
        if self._rounds % _POLICIES_EVERY == 0:
            line = json.dumps({"cutoffs": books.cutoffs(connection), "markers": markers.rule(connection)})
            if line != self._policies:
                self._policies = line
                yield line
        self._rounds += 1


def _offers(connection: Connection, found: list[CommandRequest], settled: int) -> Iterator[str]:
    """Lines in the order of the requests; a part of a batch of tiers has a line of its own."""
    rows: list[list[Any]] = []
    for one in found:
        for part in command_requests.in_parts(connection, one):
            alone = part.kind == STAGING
            if rows and (alone or len(rows) == _OFFER):
                yield json.dumps({"requests": rows, "settled": settled})
                rows = []
            rows.append([part.key, part.kind, part.reference, part.payload])
            if alone:
                yield json.dumps({"requests": rows, "settled": settled})
                rows = []
    if rows:
        yield json.dumps({"requests": rows, "settled": settled})
