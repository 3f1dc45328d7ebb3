"""How fast trades settle with every constraint on, beside the raw COPY of the same rows into bare tables."""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import psutil
import psycopg
import pytest

from engine.clock import day_number
from engine.exchange.events import AccountOpened, AssetListed, Event, MarketListed, Side, Trade, Transfer, TransferKind
from engine.exchange.state import Account, Asset, Market, Registry
from engine.sim.demo_world import DemoConfig
from engine.steps.settling import settle
from engine.store.settlement import Settler
from engine.store.settlement_batch import BATCH
from engine.store.settlement_pipeline import settle_all
from tests.fixtures.books import BookUnderTest, MakeBook

pytestmark = pytest.mark.bench

USERS, BATCHES = 100_000, 10
GROUP = 1_000
"""Trades in a group, where a journal's reader gives those of a command."""
LONG, EACH = 50, 500_000
"""Batches of the long run, and how many trades lie between two looks at memory."""
BASE_PER_LOT = {1: 10_000, 2: 10**14}

TABLES = {
    "exchange.trades": "trade_id, posting_no, engine_seq, fill_index, close_date, sequenced_at, effective_at, market,"
    " price, quantity, quote_quantity, taker_side, maker_id, taker_id, maker_order_id, taker_order_id, maker_fee,"
    " taker_fee, maker_rate_ppm, taker_rate_ppm",
    "ledger.journals": "posting_no, kind, reference_type, reference_id, engine_seq, effective_at, close_date, origin,"
    " epoch, actor, reason, row_hash, posted_at",
    "ledger.ledger_entries": "posting_no, close_date, account_id, asset, amount",
}
KEYS = {"exchange.trades": "trade_id", "ledger.journals": "posting_no"}


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_settlement_of_an_exchange_from_its_journal(make_book: MakeBook, capsys: pytest.CaptureFixture[str]) -> None:
    config = DemoConfig(seed=3, days=1, users=2000, steps_per_day=100_000)
    book = make_book(None)
    from engine.sim.demo import load_demo

    load_demo(book.opened.files.journal_dir, config)
    with book.app() as connection:
        seconds = timed(lambda: settle(connection, book.opened.files.journal_dir))
    trades = int(str(book.value("SELECT count(*) FROM exchange.trades")))
    rate = trades / seconds
    with capsys.disabled():
        print(f"\nfrom a journal: {trades:,} trades in {seconds:.2f} s = {rate:,.0f} trades/s, replay included")
    assert trades > 10_000


def test_settlement_beside_raw_copy(make_book: MakeBook, capsys: pytest.CaptureFixture[str]) -> None:
    """The floors take the same rows in one transaction a table, without triggers, checks, partitions or balances."""
    book = make_book(None)
    registry = populated(book, USERS)
    groups = [random_trades(book, USERS, GROUP, group) for group in range(BATCHES * BATCH // GROUP)]
    gc.collect()
    gc.freeze()
    at = [0.0]
    with book.app() as connection:
        cpu, mine, started = spent_by_postgres(connection), spent(psutil.Process()), time.perf_counter()
        settle_all(connection, Settler(registry), groups, lambda _: at.append(time.perf_counter() - started))
        cpu, mine = spent_by_postgres(connection) - cpu, spent(psutil.Process()) - mine
    gc.unfreeze()
    total = BATCH * BATCHES
    assert book.value("SELECT count(*) FROM exchange.trades") == total
    # Touched for the first time, accounts cost a look-up each, and the first batch and the last are shorter.
    rate, steady = total / at[-1], BATCH / statistics.median(b - a for a, b in pairwise(at[2:-1]))
    with capsys.disabled():
        print(f"\nsettlement: {total:,} trades of {USERS:,} users: {rate:,.0f} trades/s over all, {steady:,.0f} in the")
        print(f"  median batch after the second; CPU of 100,000: Postgres {1e5 * cpu / total:.2f} s, Python", end="")
        print(f" {1e5 * mine / total:.2f} s; Postgres' alone: {total / cpu:,.0f} trades/s")
        print(f"  load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; raw COPY of the same rows in this run:")
        for keyed in (True, False):
            for form in ("text", "binary"):
                raw, raw_cpu = raw_copy(book, form, keyed=keyed)
                tables = "primary keys only" if keyed else "no key at all"
                print(
                    f"  {form:6}, {tables}: {total / raw:,.0f} trades/s; ratio {rate * raw / total:.2f} over all,",
                    end="",
                )
                print(f" {steady * raw / total:.2f} in the median batch, {raw_cpu / cpu:.2f} of Postgres' CPU")


def test_memory_is_flat_over_five_million_trades(make_book: MakeBook, capsys: pytest.CaptureFixture[str]) -> None:
    """Trades are made while they settle, so that none but those of two batches are in memory."""
    book = make_book(None)
    registry = populated(book, USERS)
    # The trades of a stream, in groups as a journal's reader gives them, and the settler that serves all of it.
    groups = (group for batch in range(LONG) for group in [random_trades(book, USERS, BATCH, batch)])
    resident: list[tuple[int, int]] = []
    with book.app() as connection:
        server = psutil.Process(connection.info.backend_pid)

        def look(seq: int) -> None:
            if (seq - USERS - 1) % EACH == 0:
                resident.append((psutil.Process().memory_info().rss >> 20, own_memory(server) >> 20))

        seconds = timed(lambda: settle_all(connection, Settler(registry), groups, look))
    total = BATCH * LONG
    assert book.value("SELECT count(*) FROM exchange.trades") == total
    with capsys.disabled():
        print(
            f"\nmemory over {total:,} trades, {total / seconds:,.0f} trades/s with making them, MiB resident after each"
        )
        print(f"  {EACH:,}: settling process {', '.join(str(mine) for mine, _ in resident)};", end=" ")
        print(f"its server process without shared buffers {', '.join(str(its) for _, its in resident)}")
    assert len(resident) == total // EACH
    assert max(mine for mine, _ in resident[2:]) - resident[1][0] < 50
    assert max(its for _, its in resident[2:]) - resident[1][1] < 50


def populated(book: BookUnderTest, users: int) -> Registry:
    """Two markets and many users, who were given plenty of each asset."""
    registry, day = Registry(), book.days[0]
    registry.assets.update({1: Asset(1, "USDT", 6), 2: Asset(2, "BTC", 8), 3: Asset(3, "ETH", 18)})
    registry.markets[1] = Market(1, "BTC-USDT", 2, 1, BASE_PER_LOT[1], 1)
    registry.markets[2] = Market(2, "ETH-USDT", 3, 1, BASE_PER_LOT[2], 1)
    registry.accounts.update({n: Account(n, f"u-{n:06d}") for n in range(1, users + 1)})
    listed: list[Event] = [AssetListed(1, a.asset, a.symbol, a.decimals) for a in registry.assets.values()]
    listed += [
        MarketListed(1, m.market, m.symbol, m.base, m.quote, m.base_units_per_lot, m.quote_units_per_tick_lot)
        for m in registry.markets.values()
    ]
    listed += [AccountOpened(1, a.account, a.name) for a in registry.accounts.values()]
    number, settler = day_number(day), Settler(registry)
    with book.app() as connection:
        settler.settle(connection, listed)
        for seq in range(2, users + 2, 10_000):
            given: list[Event] = [
                Transfer(TransferKind.DEPOSIT, seq, number, 0, 0, n, a.asset, 10 ** (9 + a.decimals), f"{n}-{a.asset}")
                for n in range(seq - 1, min(seq + 9_999, users + 1))
                for a in registry.assets.values()
            ]
            settler.settle(connection, given)
    with book.admin() as owner:
        owner.execute("VACUUM ANALYZE ledger.accounts")
    return registry


def random_trades(book: BookUnderTest, users: int, how_many: int, batch: int) -> list[Trade]:
    """Fills between users at random, with a fee on each side: eight legs."""
    dice, day, made = random.Random(batch), day_number(book.days[0]), []
    for n in range(batch * how_many + 1, (batch + 1) * how_many + 1):
        market, price, lots = 1 + n % 2, dice.randint(1_000_000, 9_000_000), dice.randint(1, 50_000)
        maker, quote, at = dice.randint(1, users), price * lots, day * 86_400_000_000 + n
        taker = maker % users + dice.randint(1, users - 1)
        taker = taker - users if taker > users else taker
        made.append(
            Trade(
                n, n + users + 1, 0, day, at, at, market, price, lots, lots * BASE_PER_LOT[market], quote,
                Side(dice.getrandbits(1)), maker, taker, 2 * n, 2 * n + 1, quote // 1250 + 1,
                quote // 1000 + 1, 800, 1000,
            )
        )  # fmt: skip
    return made


def raw_copy(book: BookUnderTest, form: str, *, keyed: bool) -> tuple[float, float]:
    """COPY the rows out, then time COPY of the same bytes into plain tables of the same columns.

    Args:
        book: settled.
        form: of COPY.
        keyed: with the primary keys of trades and journals (legs have none), or with nothing.

    Returns:
        Seconds by the clock and of the server's CPU.
    """
    with book.admin() as connection:
        seconds = cpu = 0.0
        connection.execute("CREATE SCHEMA bare")
        for table, columns in TABLES.items():
            bare = f"bare.{table.split('.')[1]}"
            connection.execute(f"CREATE TABLE {bare} AS SELECT {columns} FROM {table} WITH NO DATA".encode())
            if keyed and table in KEYS:
                connection.execute(f"ALTER TABLE {bare} ADD PRIMARY KEY ({KEYS[table]})".encode())
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT (FORMAT {form})".encode()) as out,
            ):
                data = b"".join(bytes(block) for block in out)
            before = spent_by_postgres(connection)
            seconds += timed(lambda data=data, bare=bare: copy_in(connection, bare, data, form))  # type: ignore[misc]
            cpu += spent_by_postgres(connection) - before
        connection.execute("DROP SCHEMA bare CASCADE")
    return seconds, cpu


def spent_by_postgres(connection: psycopg.Connection) -> float:
    """Seconds of CPU of all of a server: its processes, and those that have ended."""
    postmaster = psutil.Process(connection.info.backend_pid).parent()
    assert postmaster is not None
    times = postmaster.cpu_times()
    total = float(times.children_user + times.children_system)
    for process in (postmaster, *postmaster.children()):
        with suppress(psutil.NoSuchProcess):
            total += spent(process)
    return total


def own_memory(process: psutil.Process) -> int:
    """Bytes resident that are not shared: what a server process holds beside the cache of all of them."""
    info = process.memory_info()
    return int(info.rss - info.shared)


def spent(process: psutil.Process) -> float:
    """Seconds of CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def copy_in(connection: psycopg.Connection, table: str, data: bytes, form: str) -> None:
    with (
        connection.transaction(),
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} FROM STDIN (FORMAT {form})".encode()) as into,
    ):
        into.write(data)
