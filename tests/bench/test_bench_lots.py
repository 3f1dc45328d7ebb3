"""How fast fills become lots: the kernel, a peer on the same fills, and a day of trades with Postgres on both sides."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine.clock import day_number
from engine.store import lots as store
from engine.store.copy_binary import EPOCH_DAYS
from engine.store.settlement import Settler
from engine.store.settlement_batch import BATCH
from engine.store.settlement_pipeline import settle_all
from engine.valuation.booking import Flows, book
from engine.valuation.day import book_day
from engine.valuation.events import positions_of
from engine.valuation.fills import read_fills
from engine.valuation.method import Method
from engine.valuation.report import FeeTreatment, report
from tests.bench.test_bench_settlement import populated, random_trades
from tests.fixtures.books import MakeBook

pytestmark = pytest.mark.bench

FILLS, POSITIONS = 8_000_000, 100_000
TRADES, USERS = int(os.environ.get("BENCH_LOTS_TRADES", "1000000")), int(os.environ.get("BENCH_LOTS_USERS", "100000"))
PEER = Path(os.environ.get("BENCH_RP2_PYTHON", "/nonexistent"))
"""A Python that has rp2; `pip install rp2` into a venv of its own."""


def fills(scale: int) -> Flows:
    """Fills of 18-decimal coins, bought and partly sold in turn; amounts up to 5 coins x scale."""
    random = np.random.default_rng(7)
    small = random.integers(10**15, 5 * 10**18, FILLS).astype(np.uint64)
    small[1::2] = (small[::2].astype(np.float64) * random.uniform(0.05, 0.95, FILLS // 2)).astype(np.uint64)
    quantity = np.zeros((FILLS, 2), np.uint64)
    low = (small & np.uint64(0xFFFF_FFFF)) * np.uint64(scale)
    high = (small >> np.uint64(32)) * np.uint64(scale)
    quantity[:, 0] = low + (high << np.uint64(32))
    quantity[:, 1] = (high >> np.uint64(32)) + (quantity[:, 0] < low)
    value = np.zeros((FILLS, 2), np.uint64)
    value[:, 0] = random.integers(10**6, 10**12, FILLS)
    none = np.zeros((0, 2), np.uint64)
    starts = np.arange(0, FILLS + 1, FILLS // POSITIONS)
    bought = np.arange(FILLS) % 2 == 0
    return Flows(starts, bought, quantity, value, value, np.zeros(len(starts), np.int64), (none, none, none, none))


def test_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    """CPU time of one thread; the floor is one pass over the same arrays that writes an array of costs."""
    for scale, size in ((1, "amounts within one word"), (1000, "amounts beyond one word")):
        flows = fills(scale)
        book(Method.FIFO, flows)
        for method in Method:
            rates, floors = [], []
            for _ in range(3):
                started = time.process_time()
                done = book(method, flows)
                rates.append(FILLS / (time.process_time() - started) / 1e6)
                started = time.process_time()
                _ = flows.quantity + flows.value
                floors.append(FILLS / (time.process_time() - started) / 1e6)
            rate, floor = sorted(rates)[1], sorted(floors)[1]
            with capsys.disabled():
                print(f"\n{method.value:8} {size}: {rate:.1f} M fills/s, one pass over them {floor:.0f} M/s", end="")
            assert not done.oversold
            assert not done.beyond
            assert method is not Method.FIFO or rate > 10
    with capsys.disabled():
        print(
            f"\nmemory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, arrays of fills with it"
        )


PEER_PROGRAM = Path(__file__).with_name("peer_rp2.py")


@pytest.mark.skipif(not PEER.exists(), reason="rp2 is not there: BENCH_RP2_PYTHON names a Python that has it")
@pytest.mark.parametrize("method", ["fifo", "lifo", "hifo", "lofo"])
def test_rp2_on_the_same_fills(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Same totals and the same parts of every disposal, coin fees capitalised, as rp2 has them."""
    random = np.random.default_rng(11)
    held, rows = Decimal(0), []
    for n in range(4000):
        buys = held < 5 or random.random() < 0.55
        quantity = Decimal(int(random.integers(1, 4 * 10**8))) / 10**8
        price = Decimal(int(random.integers(100, 100_000))) / 100
        fee = Decimal(int(random.integers(0, 10**6))) / 10**8 if n % 3 == 0 else Decimal(0)
        if not buys:
            quantity = min(quantity, held - fee)
        held += quantity - fee if buys else -quantity - fee
        at = f"2026-{1 + n // 2000:02}-{1 + n // 100 % 20:02}T{n % 100 // 10:02}:{n % 10:02}:00+00:00"
        rows.append([at, "buy" if buys else "sell", quantity, price, "B1", fee, "B1" if fee else ""])
    file = tmp_path / "fills.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([["executed_at", "side", "quantity", "price", "asset", "fee", "fee_asset"], *rows])
    started = time.perf_counter()
    ours = report(read_fills(file), Method(method), FeeTreatment.CAPITALISED, fragments=True)
    seconds = time.perf_counter() - started
    run = subprocess.run([PEER, PEER_PROGRAM, file, method], capture_output=True, text=True, check=True, cwd=tmp_path)
    theirs = json.loads(run.stdout)
    close = Decimal("1e-8")
    assert abs(Decimal(ours["realized_gain"]) - Decimal(theirs["gain"])) < close
    parts = [(p["quantity"], p["proceeds"], p["cost"]) for p in ours["fragments"]]
    assert len(parts) == len(theirs["parts"])
    for mine, other in zip(parts, theirs["parts"], strict=True):
        assert all(abs(Decimal(a) - Decimal(b)) < close for a, b in zip(mine, other, strict=True))
    with capsys.disabled():
        speed = Decimal(theirs["seconds"]) / Decimal(repr(seconds))
        print(
            f"\n{method}: {len(rows)} fills, {len(parts)} parts equal to rp2's within 1e-8; ours {seconds:.2f} s with"
        )
        print(f"  reading the file, rp2's engine {theirs['seconds']} s without: {speed:.0f} times")


def test_day_of_trades_with_postgres(make_book: MakeBook, capsys: pytest.CaptureFixture[str]) -> None:
    """Events read, booked, written, beside the raw COPY of the same rows out and in, without keys, triggers, checks."""
    opened = make_book(None)
    registry = populated(opened, USERS)
    with opened.app() as connection:
        batches = (random_trades(opened, USERS, BATCH, batch) for batch in range(TRADES // BATCH))
        settle_all(connection, Settler(registry), batches)
    day, version = opened.days[0], 1
    with opened.admin() as owner:
        owner.execute("ANALYZE")
        owner.execute(
            "UPDATE close.days SET state = 'cutoff', barrier_seq = 1, cutoff_at = now() WHERE close_date = %s", (day,)
        )
    with closing(opened.app(autocommit=False)) as connection:
        assets = store.assets_on(connection, day)
        backend = psutil.Process(connection.info.backend_pid)
        for _ in range(2):
            laps, own, its = [], [], []

            def lap(
                started: list[float], laps: list[float] = laps, own: list[float] = own, its: list[float] = its
            ) -> None:
                laps.append(time.perf_counter() - started[0])
                own.append(time.process_time() - started[1])
                its.append(sum(backend.cpu_times()[:2]) - started[2])

            started = [time.perf_counter(), time.process_time(), sum(backend.cpu_times()[:2])]
            trades = store.read_trades(connection, day, version, assets)
            transfers = store.read_transfers(connection, day, version, assets)
            lap(started)
            positions = positions_of(trades, transfers, len(assets.symbols))
            opening = store.read_opening(connection, day, positions, assets)
            plenty = np.flatnonzero(positions.assets != assets.currency)
            opening.lot_position, opening.lot_seq = plenty, plenty
            opening.lot_no = opening.lot_day = plenty * 0
            opening.lots = np.tile(
                np.array([10**18, 10**12, 10**18, 10**12], np.uint64)[:, None] * [1, 0], (len(plenty), 1, 1)
            )
            opening.lots = opening.lots.astype(np.uint64)
            opening.lots[:, (0, 2), 1] = 10**6
            opening.quantity[:] = [0, 10**6]
            lap(started)
            booked = book_day(
                trades, transfers, positions, opening, method=Method.FIFO, fees_into_price=False,
                currency=assets.currency, day=day_number(day) - EPOCH_DAYS,
            )  # fmt: skip
            lap(started)
            store.write_day(connection, day, version, booked, positions, assets)
            lap(started)
            connection.rollback()
    with closing(opened.app(autocommit=False)) as connection, opened.admin() as owner:
        raw = time.perf_counter()
        query = "SELECT engine_seq, fill_index, maker_id, taker_id, quantity, quote_quantity, maker_fee, taker_fee"
        with connection.cursor().copy(
            f"COPY ({query} FROM exchange.trades) TO STDOUT (FORMAT BINARY)".encode()
        ) as copy:
            read = sum(len(block) for block in copy)
        raw_out = time.perf_counter() - raw
        store.write_day(connection, day, version, booked, positions, assets)
        blocks: dict[str, list[bytes]] = {}
        for table in ("lots", "realized_pnl"):
            with connection.cursor().copy(f"COPY positions.{table} TO STDOUT (FORMAT BINARY)".encode()) as copy:
                blocks[table] = [bytes(block) for block in copy]
            owner.execute(f"CREATE UNLOGGED TABLE public.raw_{table} (LIKE positions.{table})".encode())
        raw = time.perf_counter()
        for table, data in blocks.items():
            with owner.cursor().copy(f"COPY public.raw_{table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
                for block in data:
                    copy.write(block)
        raw_in = time.perf_counter() - raw
        connection.rollback()
    with capsys.disabled():
        names = ("read", "opening", "booked", "written")
        print(f"\n{len(trades.seq):,} trades of {USERS:,} users: {len(positions.users):,} positions,", end=" ")
        print(f"{len(opening.lot_seq):,} lots before and {len(booked.lot_keys):,} after")
        for name, wall, mine, theirs in zip(names, laps, own, its, strict=True):
            print(f"  until {name}: {wall:.2f} s, of CPU ours {mine:.2f} s and Postgres' {theirs:.2f} s")
        print(f"  raw COPY of the same rows: {read >> 20} MiB out in {raw_out:.2f} s, rows in {raw_in:.2f} s", end=": ")
        print(f"ratio {laps[-1] / (raw_out + raw_in):.1f}; load {os.getloadavg()[0]:.1f}")
        print(f"  memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    assert sys.getsizeof(booked) > 0
