"""The exchange service's connection to NATS: requests in, replies and market data out.

What belongs here: one reconnecting connection, its subscriptions, the durable consumer of custody's messages.
What does not: what a message means (see `engine.service`), and events that must not be lost (see `ordered_publisher`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import Error as JetStreamError

from engine.errors import UncheckedError
from engine.events.relay import DUPLICATE_WINDOW_S, STREAM, SUBJECTS

Respond = Callable[[bytes], Awaitable[None]]
OnRequest = Callable[[str, bytes, Respond], Awaitable[None]]
_RETRY_S = 0.25
_PROBE_S = 0.3
_CLOSE_S = 5.0
_ACK_WAIT_S = 5.0
"""What a killed process had been handed comes again after so long; what comes twice has one effect."""


class Broker:
    """A connection that comes back by itself for as long as it is wanted."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None

    @property
    def connected(self) -> bool:
        """Whether the server is there at this moment."""
        return self._client is not None and self._client.is_connected

    async def connect(self) -> None:
        """Connect, however long it takes."""
        while self._client is None:
            try:
                self._client = await nats.connect(
                    self._url,
                    connect_timeout=2,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RETRY_S,
                    ping_interval=5,
                    error_cb=_quiet,
                )
            except (TimeoutError, NatsError, OSError):
                await asyncio.sleep(_RETRY_S)

    @property
    def most_bytes(self) -> int:
        """The longest message that the server takes; 0 while there is none."""
        return 0 if self._client is None else self._client.max_payload

    @property
    def client(self) -> Client:
        """The connection, after `connect`."""
        assert self._client is not None, "connect() first"
        return self._client

    async def refuse_second(self, subject: str) -> None:
        """Make sure that nobody else answers a subject on this server.

        Raises:
            UncheckedError: someone does; orders would be shared out between two exchanges.
        """
        try:
            answer = await self.client.request(subject, b"", timeout=_PROBE_S)
        except (TimeoutError, NatsError):
            return
        raise UncheckedError(
            f"another exchange ({answer.data.decode('utf-8', 'replace')[:80]}) serves orders on this NATS server",
            rule="one exchange a NATS server: its subjects carry no book",
            next_step="stop that service, or give this one a NATS server (or account) of its own",
        )

    async def on_request(self, subject: str, handle: OnRequest) -> None:
        """Hand over every request on a subject, now and after each reconnect."""

        async def arrived(message: Msg) -> None:
            async def respond(data: bytes) -> None:
                if message.reply:
                    await self.tell(message.reply, data)

            await handle(message.subject, message.data, respond)

        await self.client.subscribe(subject, cb=arrived)

    async def tell(self, subject: str, data: bytes) -> None:
        """Send what nobody misses if the server is away: replies, market data."""
        if self.connected:
            try:
                await self.client.publish(subject, data)
            except (NatsError, OSError):
                return

    async def flush(self) -> None:
        """Have everything told so far leave this process."""
        if self.connected:
            try:
                await self.client.flush(timeout=2)
            except (TimeoutError, NatsError, OSError):
                return

    async def consume(self, durable: str, subjects: list[str], handle: OnRequest) -> None:
        """Hand over custody's messages one by one in the order of the stream, each until it was answered.

        Runs until cancelled. What is said of a withdrawal on one subject rests on what was said on another: all of them
        are one consumer's, which hands out the next message when the last is acknowledged, also after a kill.

        Args:
            durable: `family-book`, the name of the consumer, whose place the server remembers.
            subjects: of the close's stream.
            handle: its `respond` acknowledges; an empty answer asks for the message again.
        """
        while True:
            try:
                stream = self.client.jetstream(timeout=2)
                await stream.add_stream(
                    StreamConfig(name=STREAM, subjects=SUBJECTS, duplicate_window=DUPLICATE_WINDOW_S)
                )
                await self._consume(stream, durable, subjects, handle)
            except (TimeoutError, NatsError, JetStreamError, OSError):
                await asyncio.sleep(_RETRY_S * 4)

    async def _consume(self, stream: JetStreamContext, durable: str, subjects: list[str], handle: OnRequest) -> None:
        taken = await self._taken(stream, durable, subjects)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=min(taken.values()) + 1,
            filter_subjects=subjects,
            max_ack_pending=1,
            ack_wait=_ACK_WAIT_S,
        )
        pull = await stream.pull_subscribe(subjects[0], durable=durable, stream=STREAM, config=config)
        while True:
            try:
                (message,) = await pull.fetch(1, timeout=5)
            except TimeoutError:
                continue
            if message.metadata.sequence.stream <= taken[message.subject]:
                await message.ack()
            else:
                await handle(message.subject, message.data, _acknowledger(message))

    async def _taken(self, stream: JetStreamContext, durable: str, subjects: list[str]) -> dict[str, int]:
        """How far each subject was taken before: by other books served here, or by this one's consumer a subject.

        Messages carry no book: what another exchange credited would be credited here again. Servers that are older than
        this module's one consumer a book still know one a subject, named `family-book-subject`.
        """
        family, seen = durable.partition("-")[0] + "-", 0
        endings = {subject: "-" + subject.replace(".", "-") for subject in subjects}
        taken = dict.fromkeys(subjects, 0)
        while page := await stream.consumers_info(STREAM, offset=seen):
            seen += len(page)
            for one in page:
                if not one.name.startswith(family) or one.name == durable or not one.ack_floor:
                    continue
                of_one = [subject for subject in subjects if one.name.endswith(endings[subject])]
                for subject in of_one or subjects:
                    taken[subject] = max(taken[subject], one.ack_floor.stream_seq)
        return taken

    async def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(TimeoutError, NatsError, OSError):
                await asyncio.wait_for(client.close(), _CLOSE_S)


def _acknowledger(message: Msg) -> Respond:
    async def respond(data: bytes) -> None:
        await (message.ack() if data else message.nak(delay=1))

    return respond


async def _quiet(error: Exception) -> None:
    """A lost connection shows in `connected`; the client's default would print it."""
