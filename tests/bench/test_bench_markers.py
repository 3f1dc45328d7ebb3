"""What comparing engine and ledger costs while 100,000 users trade; how soon a user is frozen, and somebody woken.

Orders come at a fixed rate over NATS from this process, so its own time is in their latency. CPU is that of the
follower process and of its backend, the two that compare.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import nats
import psutil
import pytest
from pydantic import SecretStr

from engine import clock
from engine.clock import from_us, to_us
from engine.exchange import commands as cmd
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.sequencer import open_exchange
from engine.store import markers
from engine.store.connect import connect
from pipelines import watch
from pipelines.local.servers import ensure_servers
from pipelines.settings import Settings, load_settings
from tests.bench.test_bench_service import message, percentile
from tests.fixtures.alerts import Receiver
from tests.fixtures.exchange_service import USERS, Served, serve_book
from tests.fixtures.markers import asked, plant

pytestmark = pytest.mark.bench

MANY = int(os.environ.get("COMPLINE_BENCH_USERS", "100000"))
RATE = 1_000
WINDOW_S, WINDOWS = float(os.environ.get("COMPLINE_BENCH_WINDOW_S", "10")), 4
EVERY_S = 2.5
"""Far more often than the five minutes of the policy: a window of ten seconds has four comparisons."""


@pytest.fixture
def many(new_home: object) -> Iterator[Served]:
    """A service of 100,000 users with two balances each, settled."""
    settings: Settings = load_settings(home=new_home())  # type: ignore[operator]
    ensure_servers(settings, talk=lambda line: None)
    book = serve_book(settings, f"many{os.getpid()}")
    card = book.opened.card
    rule = card.policy.cutoff_rule
    with open_exchange(book.opened.files.journal_dir, first_day=card.book.first_day, cutoff_rule=rule) as sequencer:
        opens = to_us(rule.instant(card.book.first_day - timedelta(days=1)))
        for number in range(USERS + 1, MANY + 1):
            sequencer.submit(cmd.OpenAccount(number, f"u-{number}"), opens)
            sequencer.submit(cmd.Deposit(number, 1, 10**9 + number, f"usdt-{number}"), opens)
            sequencer.submit(cmd.Deposit(number, 2, 10**8 + number, f"btc-{number}"), opens)
    service = Served(book, settings, arguments=("--compare-every", "0"))
    service.start()
    service.until(lambda: service.at("settled_seq"), "everything is settled", 300)
    yield service
    service.end()


def comparing(service: Served) -> float:
    """CPU seconds so far of the two that compare: the follower, and the backend of its settlement."""
    assert service.process is not None
    pids = [psutil.Process(service.process.pid).children()[0].pid]
    with service.book.admin() as owner:
        pids += [
            pid
            for (pid,) in owner.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name ="
                " 'compline settlement'"
            )
        ]
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


async def orders(service: Served, seconds: float) -> list[float]:
    """Latencies of orders sent at a rate, however long the answers take."""
    took: list[float] = []
    connections = [await nats.connect(service.nats_url) for _ in range(4)]

    async def one(number: int) -> None:
        started = time.perf_counter()
        await connections[number % 4].request("orders.submit", message(number), timeout=10)
        took.append(time.perf_counter() - started)

    began, sent = time.perf_counter(), list[asyncio.Task[None]]()
    while time.perf_counter() - began < seconds:
        due = int((time.perf_counter() - began) * RATE)
        sent += [asyncio.create_task(one(number)) for number in range(len(sent), due)]
        await asyncio.sleep(0.001)
    await asyncio.gather(*sent)
    for connection in connections:
        await connection.close()
    return took


def frozen_after(service: Served, seq: int) -> float:
    """When the exchange journalled a hold after a sequence, in seconds since 1970."""
    with JournalReader(journal_path(service.directory)) as reader:
        for record in reader.records(seq):
            if isinstance(record.command, cmd.SetAccount) and record.command.holds:
                return from_us(record.ts_us).timestamp()
    return 0.0


def test_figures(many: Served, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    asked(many, 60)
    before, results = comparing(many), [asked(many, 60) for _ in range(5)]
    spent = (comparing(many) - before) / len(results)
    in_sql = statistics.median(one.compared_ms or 0 for one in results)
    lines.append(
        f"one comparison of {results[0].engine_rows:,} balances of {MANY:,} users: {spent:.2f} s of CPU (follower and"
        f" backend), of it {in_sql / 1e3:.2f} s judging; every 300 s that is {spent / 3:.2f} % of one core"
    )
    stop = threading.Event()

    def compare() -> None:
        while not stop.is_set():
            with closing(connect(many.book.opened.url, autocommit=True)) as connection:
                markers.request(connection)
            stop.wait(EVERY_S)

    with_it: list[list[float]] = []
    without: list[list[float]] = []
    for window in range(2 * WINDOWS):
        if window % 2:
            stop.clear()
            thread = threading.Thread(target=compare)
            thread.start()
            with_it.append(asyncio.run(orders(many, WINDOW_S)))
            stop.set()
            thread.join()
        else:
            without.append(asyncio.run(orders(many, WINDOW_S)))
    for name, windows in (("without", without), (f"with one every {EVERY_S} s", with_it)):
        p50s, p99s = ([percentile(took, share) * 1e3 for took in windows] for share in (0.5, 0.99))
        lines.append(
            f"orders at {RATE:,}/s {name}: p50 {statistics.median(p50s):.2f} ms, p99 {statistics.median(p99s):.2f} ms"
            f" (windows: {', '.join(f'{p:.1f}' for p in p99s)})"
        )
    many.settled()
    with closing(connect(many.book.opened.url, autocommit=True)) as connection:
        done = markers.recent(connection, 1_000)
    assert {one.verdict for one in done} == {"pass"}
    lines.append(f"{len(done)} comparisons, none with a break")

    receiver = Receiver()
    settings = many.settings.model_copy(update={"alert_urls": SecretStr(receiver.url)})
    ended = threading.Event()
    opened = replace(many.book.opened, settings=settings)
    waking = threading.Thread(
        target=lambda: watch.watch(opened, every_s=1.0, talk=lambda line: None, stop=ended.is_set)
    )
    waking.start()
    froze, woke = [], []
    for user in range(11, 16):
        posts = len(receiver.posts)
        plant(many, f"u-{user}", "0.000001")
        one = asked(many, 60)
        assert one.verdict == "fail"
        with many.book.admin() as owner:
            row = owner.execute("SELECT judged_at FROM recon.markers WHERE marker_seq = %s", (one.seq,)).fetchone()
        assert row is not None
        judged = row[0].timestamp()
        many.until(lambda at=one.seq: frozen_after(many, at) > 0, "the user is held")  # type: ignore[misc]
        froze.append(frozen_after(many, one.seq) - judged)
        many.until(lambda n=posts: len(receiver.posts) > n, "somebody is woken")  # type: ignore[misc]
        woke.append(clock.now().timestamp() - judged)
    ended.set()
    waking.join()
    lines.append(f"from verdict to freeze in the exchange: {statistics.median(froze):.2f} s (worst {max(froze):.2f})")
    lines.append(
        f"from verdict to alert received over HTTP, watch every 1 s: {statistics.median(woke):.2f} s"
        f" (worst {max(woke):.2f})"
    )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
