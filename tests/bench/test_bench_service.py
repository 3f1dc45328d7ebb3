"""How fast the exchange answers: over NATS request/reply, and a durable acknowledgement beside an fsync of its disk."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import nats
import pytest

from engine import clock
from engine.clock import CutOffRule, to_us
from engine.exchange import commands as cmd
from engine.exchange.codec import RECORD_BYTES
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.service import event_loop
from engine.service.desk import Desk, Reply
from engine.service.group import Answer, GroupCommitter
from engine.service.metrics import Metrics
from pipelines.local.servers import ensure_servers
from pipelines.settings import Settings, load_settings
from tests.fixtures.exchange_service import SYMBOL, Served, order, serve_book

pytestmark = pytest.mark.bench

RUNS = 5
ORDERS = 4_000
FLIGHTS = ((1, 500), (8, 2_000), (32, 4_000), (128, 8_000))
RATES = (1_000, 2_000, 4_000, 8_000)


@pytest.fixture
def own_service(new_home: object) -> Iterator[Served]:
    """A service with servers of its own."""
    settings: Settings = load_settings(home=new_home())  # type: ignore[operator]
    ensure_servers(settings, talk=lambda line: None)
    yield (service := Served(serve_book(settings, f"bench{os.getpid()}"), settings))
    service.end()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def message(number: int) -> bytes:
    """Asks and bids at one price in turn, of eight users and of many sizes: every second order trades."""
    pair, bid = divmod(number, 2)
    size = f"0.{1 + pair * 389 % 97:03}"
    return json.dumps(order(f"u-{1 + (pair + 3 * bid) % 8}", "buy" if bid else "sell", "100", size)).encode()


def fsync_seconds(folder: Path, count: int, size: int) -> list[float]:
    """Append and fsync, one right after the other."""
    found: list[float] = []
    with appending(folder) as fd:
        data = os.urandom(size)
        for number in range(count):
            started = time.perf_counter()
            os.pwrite(fd, data, number * size)
            os.fsync(fd)
            found.append(time.perf_counter() - started)
    return found


@contextmanager
def appending(folder: Path) -> Iterator[int]:
    """A new file on the journal's disk."""
    path = folder / "fsync.probe"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        yield fd
    finally:
        os.close(fd)
        path.unlink()


def test_orders_over_request_reply(own_service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    own_service.start()

    async def load(clients: int) -> tuple[float, list[float]]:
        took: list[float] = []
        connections = [await nats.connect(own_service.nats_url) for _ in range(min(clients, 4))]
        numbers = iter(range(ORDERS))

        async def one(number: int) -> None:
            connection = connections[number % len(connections)]
            for each in numbers:
                started = time.perf_counter()
                reply = await connection.request("orders.submit", message(each), timeout=10)
                took.append(time.perf_counter() - started)
                assert reply.data.startswith(b'{"success":true'), reply.data

        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(clients)))
        seconds = time.perf_counter() - started
        for connection in connections:
            await connection.close()
        return ORDERS / seconds, took

    lines = []
    for clients in (1, 16, 128):
        runs = [asyncio.run(load(clients)) for _ in range(RUNS)]
        rates = sorted(rate for rate, _ in runs)
        p50, p99 = (percentile([t for _, took in runs for t in took], share) * 1e3 for share in (0.5, 0.99))
        lines.append(
            f"{clients:4} in flight: {rates[RUNS // 2]:7,.0f} orders/s (worst {rates[0]:,.0f}, best {rates[-1]:,.0f}),"
            f" p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        )
    with capsys.disabled():
        print("\nover NATS request/reply, one client process, settlement and events running:\n" + "\n".join(lines))
    own_service.told()
    own_service.settled()


class Committer(Protocol):
    """What takes messages and answers them when they are durable."""

    def put(self, subject: str, data: bytes, answer: Answer) -> bool:
        """Queue a message."""
        ...

    async def run(self) -> None:
        """Commit group after group."""
        ...

    def close(self) -> None:
        """End once what is queued has been answered."""
        ...


class BareCommitter:
    """Appends and fsyncs a record a message, nothing else: the least that a durable reply takes in this loop."""

    def __init__(self, fd: int) -> None:
        self._fd, self._size, self._record = fd, 0, os.urandom(RECORD_BYTES)
        self._waiting: list[Answer] = []
        self._wake = asyncio.Event()
        self._closing = False

    def put(self, subject: str, data: bytes, answer: Answer) -> bool:
        self._waiting.append(answer)
        self._wake.set()
        return True

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, []
            os.pwrite(self._fd, self._record * len(group), self._size)
            os.fsync(self._fd)
            self._size += RECORD_BYTES * len(group)
            for answer in group:
                await answer({"success": True})


Load = Callable[[Committer, list[float]], Awaitable[None]]
MESSAGES = [message(number) for number in range(2 * 97 * 8)]


async def acknowledged(committer: Committer, number: int, took: list[float]) -> None:
    """Send one message and wait for its reply."""
    done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    async def answer(reply: Reply) -> None:
        done.set_result(reply)

    started = time.perf_counter()
    assert committer.put("orders.submit", MESSAGES[number % len(MESSAGES)], answer)
    assert (await done)["success"]
    took.append(time.perf_counter() - started)


async def in_flight(users: int, count: int, committer: Committer, took: list[float]) -> None:
    """So many users, each of whom sends the next message when the last one is answered."""
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await acknowledged(committer, number, took)

    await asyncio.gather(*(one() for _ in range(users)))


SENDER = """
import os, random, struct, sys, time
rate, count = map(int, sys.argv[1:])
chance, due = random.Random(rate), time.perf_counter()
for number in range(count):
    due += chance.expovariate(rate)
    time.sleep(max(0.0, due - time.perf_counter()))
    os.write(1, struct.pack("<d", time.perf_counter()))
"""


async def at_rate(rate: int, count: int, committer: Committer, took: list[float]) -> None:
    """Messages that come by chance out of another process, whatever becomes of those before; they are timed there."""
    loop = asyncio.get_running_loop()
    everyone: asyncio.Future[None] = loop.create_future()
    numbers = iter(range(count))

    def arrived(started: float) -> None:
        async def answer(reply: Reply) -> None:
            assert reply["success"]
            took.append(time.perf_counter() - started)
            if len(took) == count:
                everyone.set_result(None)

        assert committer.put("orders.submit", MESSAGES[next(numbers) % len(MESSAGES)], answer)

    def readable() -> None:
        for (started,) in struct.iter_unpack("<d", os.read(pipe, 1 << 16)):
            arrived(started)

    with subprocess.Popen([sys.executable, "-c", SENDER, str(rate), str(count)], stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        pipe = sender.stdout.fileno()
        loop.add_reader(pipe, readable)
        await everyone
        loop.remove_reader(pipe)


async def served(committer: Committer, load: Load) -> list[float]:
    """How long each message of a load took."""
    took: list[float] = []
    running = asyncio.create_task(committer.run())
    await load(committer, took)
    committer.close()
    await running
    return took


async def by_exchange(sequencer: Sequencer, load: Load) -> list[float]:
    return await served(GroupCommitter(Desk(sequencer), Metrics(), lambda seq: None), load)


async def bare(fd: int, load: Load) -> list[float]:
    return await served(BareCommitter(fd), load)


class Taken(NamedTuple):
    """One run: seconds of each message, of each message of the bare committer, of each fsync; CPU seconds a message."""

    took: list[float]
    floor: list[float]
    disk: list[float]
    cpu: float

    @property
    def by_fsync(self) -> float:
        return percentile(self.took, 0.99) / percentile(self.disk, 0.99)

    @property
    def by_floor(self) -> float:
        return percentile(self.took, 0.99) / percentile(self.floor, 0.99)

    def ms(self, what: str) -> str:
        values = getattr(self, what)
        return f"p50 {percentile(values, 0.5) * 1e3:.3f} ms, p99 {percentile(values, 0.99) * 1e3:.3f} ms"


def test_durable_acknowledgement_beside_fsync(own_service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Callers are in the same process, so their own time is in each figure.

    With so many in flight, always, a message waits for all the others: that is the time of a message by their number,
    whatever the disk does. At a rate it waits for those that came just before it. An fsync is measured one right after
    the other; on an idle disk, out of an idle process, it takes longer, and a message waits for the group under way
    too: all that is in the bare committer's figure, which is given the same load.
    """
    card = own_service.book.opened.card
    directory = own_service.directory
    # As the service does; and here everything that pytest holds.
    gc.collect()
    gc.freeze()

    def measured(name: str, group: int, load: Load) -> str:
        runs = []
        for _ in range(RUNS):
            before = fsync_seconds(directory, 300, RECORD_BYTES * group)
            cpu = time.process_time()
            took = event_loop.run(by_exchange(sequencer, load))
            cpu = (time.process_time() - cpu) / len(took)
            with appending(directory) as fd:
                floor = event_loop.run(bare(fd, load))
            runs.append(Taken(took, floor, before + fsync_seconds(directory, 300, RECORD_BYTES * group), cpu))
        runs.sort(key=lambda one: one.by_fsync)
        floors = sorted(one.by_floor for one in runs)
        middle = runs[RUNS // 2]
        return (
            f"{name:>16}: acknowledged {middle.ms('took')}; bare group commit {middle.ms('floor')}; fsync"
            f" {middle.ms('disk')}; p99 by fsync's {middle.by_fsync:.2f} ({runs[0].by_fsync:.2f} to"
            f" {runs[-1].by_fsync:.2f}), by the bare one's {floors[RUNS // 2]:.2f} ({floors[0]:.2f} to"
            f" {floors[-1]:.2f}); {middle.cpu * 1e6:.0f} µs of CPU a message"
        )

    rule = card.policy.cutoff_rule
    with open_exchange(directory, first_day=card.book.first_day, cutoff_rule=rule) as sequencer:
        lines = [measured(f"{n} in flight", n, partial(in_flight, n, count)) for n, count in FLIGHTS]
        lines += [measured(f"{rate:,} a second", 4, partial(at_rate, rate, rate)) for rate in RATES]
    with capsys.disabled():
        print(
            f"\ndurable acknowledgement, in process, group commit, load {os.getloadavg()[0]:.1f}:\n" + "\n".join(lines)
        )


def test_orders_across_a_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a cut-off keeps the orders waiting: alone, and where the exchange packs the state itself."""
    day, users = clock.now().date(), 100_000
    rule = CutOffRule.parse("24:00 UTC")
    taken: list[int] = []
    lines = []
    for name, keep in (("packed by a process beside it", lambda engine: taken.append(engine.last_seq)), ("here", None)):
        with open_exchange(tmp_path / name, first_day=day, cutoff_rule=rule, keep=keep) as sequencer:
            opens = to_us(rule.instant(day - timedelta(days=1)))
            setup = [cmd.SetAsset(1, "USDT", 6), cmd.SetAsset(2, "BTC", 8), cmd.SetMarket(1, SYMBOL, 2, 1, 10**4, 1)]
            for command in (*setup, *(cmd.OpenAccount(number, f"u-{number}") for number in range(1, users + 1))):
                sequencer.submit(command, opens - 1)
            for number, asset in itertools.product(range(1, users + 1), (1, 2)):
                sequencer.submit(cmd.Deposit(number, asset, 10**6, f"{asset}-{number}"), opens)
            sequencer.commit()
            started = time.perf_counter()
            assert sequencer.cut_off(day) is not None
            lines.append(f"{name:>30}: {(time.perf_counter() - started) * 1e3:,.1f} ms")
    assert taken
    with capsys.disabled():
        print(f"\na cut-off of {users:,} users, two balances each; a snapshot\n" + "\n".join(lines))
