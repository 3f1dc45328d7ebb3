"""Events into JetStream: each once, in order, whatever happens to the server.

What belongs here: the stream, the message ids, and publishing a row of messages so that no later one overtakes.
What does not: what the events say, and where one left off (see `engine.service.followers`).

Three things keep it so. The connection never reconnects by itself: a client that did would send what waits in its
buffer ahead of what was lost. Every message after the first of a connection names the id of the one before it, and
the server refuses it where that is not the last. And a new connection first asks for the last id in the stream, so
that an acknowledgement that was lost costs nothing, however long the server was away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, PubAck, StreamConfig
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from engine.errors import UncheckedError

STREAM = "COMPLINE_EXCHANGE"
SUBJECTS = [
    "orders.created",
    "orders.rejected",
    "orders.cancelled",
    "orders.filled",
    "trades.executed",
    "trades.executed.>",
    "balances.updated.>",
    "risk.check.failed",
]
"""`orders.submit` and `orders.cancel` are requests: a stream over them would answer in our place."""
DUPLICATE_WINDOW_S = 3600.0
MAX_BYTES = 4 * 1024**3
"""The oldest go first: the journal is the record."""
_ID, _AFTER = "Nats-Msg-Id", "Nats-Expected-Last-Msg-Id"
_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event: its place is the sequence of its command and its number among that command's events."""

    seq: int
    index: int
    subject: str
    data: bytes


class OrderedPublisher:
    """Publishes one book's events; after any error a new connection is made.

    Args:
        url: the NATS server.
        book: part of every message id.
    """

    def __init__(self, url: str, book: str) -> None:
        self._url = url
        self._book = book
        self._client: Client | None = None
        self._stream: JetStreamContext | None = None
        self._last_id: str | None = None

    @property
    def connected(self) -> bool:
        """Whether the last thing that it did succeeded."""
        return self._client is not None

    async def last_published(self) -> tuple[int, int] | None:
        """Sequence and index of the last event in the stream; None where that is not this book's.

        Raises:
            UncheckedError: the server does not answer.
        """
        try:
            stream = await self._ready()
            last = (await stream.stream_info(STREAM)).state.last_seq
            if not last:
                return None
            headers = (await stream.get_msg(STREAM, last)).headers or {}
        except NotFoundError:
            return None
        except (TimeoutError, NatsError, JetStreamError, OSError) as error:
            raise await self._lost(error) from None
        book, _, place = headers.get(_ID, "").rpartition("@")
        seq, _, index = place.partition(".")
        return (int(seq), int(index)) if book == self._book and seq.isdigit() and index.isdigit() else None

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish in order; when it returns, the stream holds all of them.

        Raises:
            UncheckedError: the server does not answer or refuses; publish the same again.
        """
        if not messages:
            return
        waiting: list[asyncio.Future[PubAck]] = []
        try:
            stream = await self._ready()
            async with asyncio.timeout(_LIMIT_S):
                for message in messages:
                    message_id = f"{self._book}@{message.seq}.{message.index}"
                    headers = {_ID: message_id}
                    if self._last_id is not None:
                        headers[_AFTER] = self._last_id
                    self._last_id = message_id
                    waiting.append(await stream.publish_async(message.subject, message.data, headers=headers))
                await asyncio.gather(*waiting)
        except (TimeoutError, NatsError, JetStreamError, OSError) as error:
            for one in waiting:
                one.cancel()
            raise await self._lost(error) from None

    async def close(self) -> None:
        """End the connection."""
        client, self._client, self._stream, self._last_id = self._client, None, None, None
        if client is not None:
            try:
                await asyncio.wait_for(client.close(), _LIMIT_S)
            except (TimeoutError, NatsError, OSError):
                return

    async def _ready(self) -> JetStreamContext:
        if self._stream is None:
            self._client = await nats.connect(
                self._url, connect_timeout=2, allow_reconnect=False, ping_interval=5, error_cb=_quiet
            )
            stream = self._client.jetstream(timeout=_LIMIT_S)
            await stream.add_stream(
                StreamConfig(
                    name=STREAM,
                    subjects=SUBJECTS,
                    duplicate_window=DUPLICATE_WINDOW_S,
                    max_bytes=MAX_BYTES,
                    discard=DiscardPolicy.OLD,
                )
            )
            self._stream = stream
        return self._stream

    async def _lost(self, error: Exception) -> UncheckedError:
        await self.close()
        return UncheckedError(
            f"NATS cannot be reached: {error or type(error).__name__}",
            rule="events stay in the journal until they are acknowledged",
            next_step="compline doctor; the service tries again by itself",
        )


async def _quiet(error: Exception) -> None:
    """The error reaches the caller by itself; the client's default would also print it."""
