"""Custody's messages reach each exchange once: the one that was served when they came."""

from __future__ import annotations

import asyncio

import nats
from nats.js.api import StreamConfig

from engine.events.broker import Broker, Respond
from engine.events.relay import DUPLICATE_WINDOW_S, STREAM, SUBJECTS
from pipelines.local.urls import Servers

SUBJECT = "custody.withdrawal.failed"


class Exchange:
    """What takes custody's messages for a book."""

    def __init__(self, url: str, book: str) -> None:
        self.book = book
        self.broker = Broker(url)
        self.taken: list[bytes] = []

    async def serve(self, until: int) -> None:
        """Take messages until there were so many."""

        async def handle(subject: str, data: bytes, respond: Respond) -> None:
            self.taken.append(data)
            await respond(b"+")

        await self.broker.connect()
        consuming = asyncio.create_task(self.broker.consume(f"exchange-{self.book}", [SUBJECT], handle))
        async with asyncio.timeout(20):
            while len(self.taken) < until:
                await asyncio.sleep(0.02)
        # What it acknowledged is known to the server before another asks.
        await self.broker.flush()
        consuming.cancel()
        await self.broker.close()


def test_exchange_takes_what_nobody_took_and_nothing_that_another_did(servers: Servers) -> None:
    async def talk() -> None:
        client = await nats.connect(servers.nats_url, connect_timeout=5)
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name=STREAM, subjects=SUBJECTS, duplicate_window=DUPLICATE_WINDOW_S))

        async def served(book: str, *texts: bytes) -> list[bytes]:
            """What the exchange of a book takes after custody said this."""
            for text in texts:
                await stream.publish(SUBJECT, text)
            exchange = Exchange(servers.nats_url, book)
            await exchange.serve(len(texts))
            return exchange.taken

        assert await served("one", b"a", b"b") == [b"a", b"b"]
        assert await served("two", b"c") == [b"c"]
        assert await served("two", b"d") == [b"d"]
        assert await served("one", b"e", b"f") == [b"e", b"f"], "what two took meanwhile is not for one"
        assert await served("two", b"g") == [b"g"]
        await client.close()

    asyncio.run(talk())
