"""How fast the trading core is: matching alone, whole replays, one command; beside other books on the same stream.

Peers are not in this project's lock. Name an interpreter that has them, e.g.
`python -m venv /tmp/peers && /tmp/peers/bin/pip install limit-order-book lightmatchingengine pyorderbook order-matching
polars pandera` and `COMPLINE_BENCH_PEERS=/tmp/peers/bin/python make bench`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from engine.exchange import codec, conformance
from engine.exchange import commands as cmd
from engine.exchange.collector import paused
from engine.exchange.conformance import EngineName, Stream
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Side, Trade
from engine.exchange.journal import header_bytes, journal_path
from engine.exchange.replay import replay
from engine.service import event_loop

pytestmark = pytest.mark.bench

FLASH1 = Path(__file__).parents[2].parent / "shared" / "vectors" / "flash1"
FIRST_DAY = 20514
RUNS = 5
TIF = cmd.TimeInForce
Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def line(text: str) -> None:
        with capsys.disabled():
            print(text)

    with capsys.disabled():
        print(f"\n{cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, Python {platform.python_version()}")
    return line


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


@pytest.mark.skipif(not FLASH1.exists(), reason=f"outside vectors absent: {FLASH1}")
@pytest.mark.parametrize(("engine", "least"), [(EngineName.NUMBA, 5_000_000), (EngineName.PYTHON, 2_000_000)])
def test_matching_alone(engine: EngineName, least: int, say: Say) -> None:
    worst = None
    for path in sorted(FLASH1.glob("orders_*.parquet")):
        stream = conformance.read_stream(path)
        runs = [conformance.run(stream, engine)[0] for _ in range(RUNS)]
        assert len({run.sha256 for run in runs}) == 1
        rates = [run.messages_per_second for run in runs]
        median = int(statistics.median(rates))
        say(f"matching, {engine.value}, {path.stem}: median {median:,} of {[f'{rate:,}' for rate in rates]} messages/s")
        worst = median if worst is None else min(worst, median)
    assert worst is not None
    assert worst >= least


def journal_of_traffic(directory: Path, orders: int, accounts: int = 2000) -> int:
    """A journal of so many order commands over three assets, two markets and funded accounts."""
    rng = random.Random(1)
    seq, crc, now = 0, 0, 10**15
    header = header_bytes(FIRST_DAY)
    raw = [header]
    crc = int.from_bytes(header[-4:], "little")

    def put(command: cmd.Command) -> int:
        nonlocal seq, crc, now
        seq, now = seq + 1, now + 1
        data, record = codec.encode(seq, now, command, crc)
        crc = record.crc
        raw.append(data)
        return seq

    limits = cmd.MarketLimits(1, 10**6, 10, 900_000, 50_000, 10**9, 1)
    for command in (
        cmd.SetAsset(1, "USDT", 6),
        cmd.SetAsset(2, "BTC", 8),
        cmd.SetAsset(3, "ETH", 18),
        cmd.SetMarket(1, "BTC-USDT", 2, 1, 10**4, 1, None, limits),
        cmd.SetMarket(2, "ETH-USDT", 3, 1, 10**15, 10, None, limits),
        cmd.SetTier(200, 1000),
    ):
        put(command)
    for account in range(1, accounts + 1):
        put(cmd.OpenAccount(account, f"u-{account}"))
        for asset, units in ((1, 10**15), (2, 10**13), (3, 10**24)):
            put(cmd.OpeningBalance(account, asset, units, f"o-{account}-{asset}"))
    put(cmd.CutOff(FIRST_DAY - 1))
    live: list[tuple[int, int, int]] = []
    mids = [100_000, 5_000]
    for number in range(orders):
        draw, market = rng.random(), rng.randint(0, 1)
        if draw < 0.5 or not live:
            mids[market] += rng.randint(-1, 1)
            side = rng.choice((Side.BUY, Side.SELL))
            away = int(abs(rng.gauss(0, 15))) - 2
            price = mids[market] + (-away if side == Side.BUY else away)
            tif = rng.choices(list(TIF), (80, 10, 2, 6, 2))[0]
            account, key = rng.randint(1, accounts), f"r-{number}" if rng.random() < 0.3 else ""
            quantity = rng.randint(1, 100)
            order_id = put(cmd.NewOrder(account, market + 1, side, price, quantity, tif, key))
            if tif in (TIF.GTC, TIF.POST_ONLY):
                live.append((order_id, account, price))
            continue
        index = rng.randrange(len(live))
        order_id, account, price = live[index]
        if draw < 0.92:
            live[index] = live[-1]
            live.pop()
            put(cmd.CancelOrder(account, order_id))
        elif draw < 0.96:
            put(cmd.ReduceOrder(account, order_id, 1))
        else:
            put(cmd.AmendOrder(account, order_id, price, rng.randint(1, 100)))
    journal_path(directory).write_bytes(b"".join(raw))
    return seq


def test_whole_replay_with_risk_locks_fees_and_trade_rows(tmp_path: Path, say: Say) -> None:
    from engine.exchange.kernels.crc import first_bad, tables
    from engine.exchange.replay_numba import Run
    from engine.exchange.replay_world import records_of

    count = journal_of_traffic(tmp_path, 1_000_000)
    online = replay(tmp_path, EngineName.PYTHON)
    rates, decided = [], []
    table = tables()
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        raw = records_of(np.fromfile(journal_path(tmp_path), np.uint8)[160:])
        header_crc = int.from_bytes(header_bytes(FIRST_DAY)[-4:], "little")
        assert first_bad(raw.view(np.uint32), table, 0, header_crc) == count
        run = Run(FIRST_DAY, raw)
        run.advance()
        decided.append(count / (time.perf_counter() - started))
        done = run.finish()
        rates.append(count / (time.perf_counter() - started))
        del run
    kernel = replay(tmp_path, EngineName.NUMBA)
    assert kernel.as_dict()["engine_state_hash"] == online.as_dict()["engine_state_hash"]
    assert (kernel.trades, kernel.trades_sha256) == (online.trades, online.trades_sha256)
    assert done.trade_count == online.trades
    median, without = statistics.median(rates[1:]), statistics.median(decided[1:])
    say(
        f"replay of {count:,} commands, {online.trades:,} trades: numba {median:,.0f} commands/s read, checked, decided"
        f" and handed back as a state, {without:,.0f} without handing back; online engine"
        f" {count / online.seconds:,.0f} commands/s"
    )
    assert without >= 1_500_000


def test_one_command_in_process(tmp_path: Path, say: Say) -> None:
    records = traffic_records(tmp_path, 200_000)
    runs: list[list[int]] = []
    for _ in range(RUNS):
        engine = ExchangeEngine(FIRST_DAY)
        times, by_fills = [], defaultdict(list)
        with paused():
            for record in records:
                started = time.perf_counter_ns()
                events = engine.apply(record)
                times.append(time.perf_counter_ns() - started)
                by_fills[sum(type(event) is Trade for event in events)].append(times[-1])
        runs.append(times[-200_000:])
    say("a command in process, online engine: " + median_percentiles(runs))
    for fills, spent in sorted(by_fills.items()):
        if len(spent) >= 100:
            say(f"  {fills} fills, {len(spent) / len(records):.1%}: " + percentiles(spent))


def test_round_trip_through_asyncio(tmp_path: Path, say: Say) -> None:
    """From a caller's await to its answer; nothing is made durable.

    Through a queue that another task works off, and through a callback of the loop: what an asyncio.Queue costs is the
    difference.
    """
    records = traffic_records(tmp_path, 200_000)

    async def through_queue(engine: ExchangeEngine, times: list[int]) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[codec.JournalRecord, asyncio.Future[int]] | None] = asyncio.Queue()

        async def work() -> None:
            while (item := await queue.get()) is not None:
                item[1].set_result(len(engine.apply(item[0])))

        worker = asyncio.create_task(work())
        for record in records:
            started = time.perf_counter_ns()
            answer: asyncio.Future[int] = loop.create_future()
            queue.put_nowait((record, answer))
            await answer
            times.append(time.perf_counter_ns() - started)
        queue.put_nowait(None)
        await worker

    async def through_callback(engine: ExchangeEngine, times: list[int]) -> None:
        loop = asyncio.get_running_loop()
        waiting: deque[tuple[codec.JournalRecord, asyncio.Future[int]]] = deque()

        def work() -> None:
            while waiting:
                record, answer = waiting.popleft()
                answer.set_result(len(engine.apply(record)))

        for record in records:
            started = time.perf_counter_ns()
            answer: asyncio.Future[int] = loop.create_future()
            if not waiting:
                loop.call_soon(work)
            waiting.append((record, answer))
            await answer
            times.append(time.perf_counter_ns() - started)

    ways = (("an asyncio.Queue", through_queue), ("a callback", through_callback))
    loops = (("Python's loop", asyncio.run), ("the service's loop", event_loop.run))
    for (name, way), (loop_name, run) in product(ways, loops):
        runs = []
        for _ in range(RUNS):
            times: list[int] = []
            with paused():
                run(way(ExchangeEngine(FIRST_DAY), times))
            runs.append(times[-200_000:])
        say(f"a command through {loop_name} and back, by {name}: " + median_percentiles(runs))


def traffic_records(directory: Path, orders: int) -> list[codec.JournalRecord]:
    """The decoded records of a journal of traffic."""
    journal_of_traffic(directory, orders)
    data = journal_path(directory).read_bytes()
    return [codec.decode(data[at : at + 160]) for at in range(160, len(data), 160)]


SHARES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))


def median_percentiles(runs: list[list[int]]) -> str:
    """Of each percentile the median of all runs, and the best and worst run."""
    spent = [np.sort(np.array(run)) for run in runs]
    told = []
    for name, share in SHARES:
        found = sorted(one[int(len(one) * share)] / 1000 for one in spent)
        told.append(f"{name} {statistics.median(found):.1f} µs ({found[0]:.1f} to {found[-1]:.1f})")
    return ", ".join(told)


def percentiles(times_ns: list[int]) -> str:
    spent = np.sort(np.array(times_ns))
    return ", ".join(f"{name} {spent[int(len(spent) * share)] / 1000:.1f} µs" for name, share in SHARES)


def stream_for_peers(count: int, *, cancels: bool) -> list[list[int]]:
    """[kind, side, quantity, id, price] rows that every book understands: cancels are of orders that rest."""
    rng = random.Random(7)
    rows: list[list[int]] = []
    resting: dict[int, list[int]] = {}
    number, mid = 0, 1000
    while len(rows) < count:
        if cancels and resting and rng.random() < 0.4:
            chosen = rng.choice(list(resting)[-200:])
            rows.append([1, resting[chosen][0], 0, chosen, resting.pop(chosen)[2]])
            continue
        number += 1
        mid += rng.choice((-1, 0, 1))
        side, quantity = rng.randint(0, 1), rng.randint(1, 20)
        price = mid + (-1 if side == 0 else 1) * (rng.randint(0, 12) - 2)
        rows.append([0, side, quantity, number, price])
        sign = 1 if side == 0 else -1
        for order_id, (other, _, at) in sorted(resting.items(), key=lambda item: (item[1][2] * sign, item[0])):
            if other == side or at * sign > price * sign or not quantity:
                continue
            fill = min(quantity, resting[order_id][1])
            quantity -= fill
            resting[order_id][1] -= fill
            if not resting[order_id][1]:
                del resting[order_id]
        if quantity:
            resting[number] = [side, quantity, price]
    return rows


def ours(rows: list[list[int]], engine: EngineName) -> tuple[float, list[list[int]], list[list[int]]]:
    """Seconds, trades, and what stands at the end as [best, volume] of sells and buys."""
    columns = list(zip(*rows, strict=True))
    count = len(rows)
    named = dict(zip(conformance.COLUMNS, (columns[0], columns[1], [0] * count, *columns[2:]), strict=True))
    stream: Stream = conformance.stream_of({name: list(values) for name, values in named.items()}, name="peers")
    best: tuple[float, list[list[int]]] | None = None
    for _ in range(3):
        done, reports = conformance.run(stream, engine)
        trades = [[row[2], row[3]] for row in reports.rows() if row[0] == 1]
        if best is None or done.seconds < best[0]:
            best = done.seconds, trades
    assert best is not None
    left = {number: [side, quantity, price] for kind, side, quantity, number, price in rows if not kind}
    for row in conformance.run(stream, engine)[1].rows():
        if row[0] == 1:
            left[row[4]][1] -= row[3]
            left[row[5]][1] -= row[3]
        elif row[0] == 2:
            left[row[3]][1] = 0
    standing = (
        [[p, q] for s, q, p in left.values() if q and s == 1],
        [[p, q] for s, q, p in left.values() if q and s == 0],
    )
    ends = [[min(p for p, _ in standing[0]), sum(q for _, q in standing[0])]]
    ends.append([max(p for p, _ in standing[1]), sum(q for _, q in standing[1])])
    return best[0], best[1], ends


@pytest.mark.skipif(
    "COMPLINE_BENCH_PEERS" not in os.environ, reason="COMPLINE_BENCH_PEERS names no interpreter with peers"
)
@pytest.mark.parametrize(
    ("peer", "count", "cancels"),
    [
        ("limit-order-book", 20_000, True),
        ("lightmatchingengine", 20_000, True),
        ("pyorderbook", 20_000, True),
        ("pyorderbook", 20_000, False),
        ("order-matching", 1_000, False),
    ],
)
def test_side_by_side_on_the_same_stream(peer: str, count: int, cancels: bool, say: Say) -> None:
    rows = stream_for_peers(count, cancels=cancels)
    kernel_s, trades, ends = ours(rows, EngineName.NUMBA)
    python_s, same, _ = ours(rows, EngineName.PYTHON)
    assert trades == same
    script = Path(__file__).with_name("peer_books.py")
    done = subprocess.run(
        [os.environ["COMPLINE_BENCH_PEERS"], str(script), peer],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        say(f"{peer} failed on the stream: {done.stderr.strip().splitlines()[-1]}")
        return
    answer = json.loads(done.stdout)
    expected = ends if peer == "limit-order-book" else trades
    equal = "equal" if answer["trades"] == expected else f"DIFFERENT ({len(answer['trades'])} against {len(expected)})"
    rates = [count / seconds for seconds in (kernel_s, python_s, answer["seconds"])]
    say(
        f"{count:,} messages{'' if cancels else ' without cancels'}: numba {rates[0]:,.0f}/s,"
        f" CPython {rates[1]:,.0f}/s, {peer} {rates[2]:,.0f}/s; trades {equal}"
    )
    assert rates[1] > rates[2]
    assert rates[0] > rates[2]
