"""Custody's messages reach each exchange once: the one that was served when they came."""

from __future__ import annotations

import asyncio

import nats
import pytest
from nats.js.api import StreamConfig

from engine.events import broker as brokers
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
        self.answers = True

    async def serve(self, until: int, subjects: tuple[str, ...] = (SUBJECT,)) -> None:
        """Take messages until there were so many."""

        async def handle(subject: str, data: bytes, respond: Respond) -> None:
            self.taken.append(data)
            if self.answers:
                await respond(b"+")

        await self.broker.connect()
        consuming = asyncio.create_task(self.broker.consume(f"exchange-{self.book}", list(subjects), handle))
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


LIFE = ("custody.deposit.confirmed", "custody.withdrawal.requested", SUBJECT)


def test_messages_of_all_subjects_are_taken_in_the_order_in_which_custody_said_them(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A withdrawal's failure that overtakes its request is refused for good, and the coins stay in transit."""
    monkeypatch.setattr(brokers, "_ACK_WAIT_S", 0.5)

    async def talk() -> None:
        client = await nats.connect(servers.nats_url, connect_timeout=5)
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name=STREAM, subjects=SUBJECTS, duplicate_window=DUPLICATE_WINDOW_S))
        first = Exchange(servers.nats_url, "order")
        texts = [b"%d" % number for number in range(40)]
        for number, text in enumerate(texts):
            # The last subjects come first as often as last: no order of subjects explains the one that is asked for.
            await stream.publish(LIFE[number % 3 if number < 20 else -1 - number % 3], text)
        await first.serve(len(texts), LIFE)
        assert first.taken == texts
        # Killed with a message in hand: what came later waits until that one was taken.
        await stream.publish(LIFE[1], b"requested")
        killed = Exchange(servers.nats_url, "order")
        killed.answers = False
        await killed.serve(1, LIFE)
        await stream.publish(LIFE[2], b"failed")
        again = Exchange(servers.nats_url, "order")
        await again.serve(2, LIFE)
        assert again.taken == [b"requested", b"failed"]
        await client.close()

    asyncio.run(talk())


def test_place_of_a_consumer_a_subject_is_gone_on_behind(servers: Servers) -> None:
    """A server that still knows the consumers a subject of an older exchange hands out nothing of theirs again."""

    async def talk() -> None:
        client = await nats.connect(servers.nats_url, connect_timeout=5)
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name=STREAM, subjects=SUBJECTS, duplicate_window=DUPLICATE_WINDOW_S))
        deposit, failed = LIFE[0], LIFE[2]
        for subject, text in ((failed, b"f1"), (deposit, b"d1"), (failed, b"f2"), (deposit, b"d2")):
            await stream.publish(subject, text)
        name = f"exchange-older-{failed.replace('.', '-')}"
        older = await stream.pull_subscribe(failed, durable=name, stream=STREAM)
        taken = b""
        while taken != b"f1":
            (message,) = await older.fetch(1, timeout=5)
            taken = message.data
            await message.ack_sync()
        exchange = Exchange(servers.nats_url, "older")
        while exchange.taken[-1:] != [b"d2"]:
            exchange.broker = Broker(servers.nats_url)
            await exchange.serve(len(exchange.taken) + 1, (deposit, failed))
        assert exchange.taken[-3:] == [b"d1", b"f2", b"d2"]
        assert b"f1" not in exchange.taken
        await client.close()

    asyncio.run(talk())
