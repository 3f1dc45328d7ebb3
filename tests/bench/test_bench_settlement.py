"""How fast trades settle with every constraint on, beside the raw COPY of the same rows into bare tables."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import psutil
import psycopg
import pytest

from engine.clock import day_number
from engine.exchange.events import AccountOpened, AssetListed, Event, MarketListed, Side, Trade, Transfer, TransferKind
from engine.exchange.state import Account, Asset, Market, Registry
from engine.sim.demo_world import DemoConfig
from engine.steps.settling import settle
from engine.store.settlement import BATCH, Settler
from tests.fixtures.books import BookUnderTest, MakeBook

pytestmark = pytest.mark.bench

USERS, BATCHES = 100_000, 6
BASE_PER_LOT = {1: 10_000, 2: 10**14}

TABLES = {
    "exchange.trades": "trade_id, posting_no, engine_seq, fill_index, close_date, sequenced_at, effective_at, market,"
    " price, quantity, quote_quantity, taker_side, maker_id, taker_id, maker_order_id, taker_order_id, maker_fee,"
    " taker_fee, maker_rate_ppm, taker_rate_ppm",
    "ledger.journals": "posting_no, kind, reference_type, reference_id, engine_seq, effective_at, close_date, origin,"
    " epoch, actor, reason, row_hash, posted_at",
    "ledger.ledger_entries": "posting_no, close_date, account_id, asset, amount",
}


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
    """Memory is flat where the peak stops growing with the number of batches; one batch is in memory at a time."""
    book = make_book(None)
    registry = populated(book, USERS)
    settler, seconds, resident = Settler(registry), [], []
    with book.app() as connection:
        for batch in range(BATCHES):
            trades = random_trades(book, USERS, BATCH, batch)
            # Touched for the first time, accounts cost a look-up each: the first batches are slower.
            seconds.append(timed(lambda trades=trades: settler.settle(connection, trades)))  # type: ignore[misc]
            resident.append(psutil.Process().memory_info().rss >> 20)
    total = BATCH * BATCHES
    assert book.value("SELECT count(*) FROM exchange.trades") == total
    rate, steady = total / sum(seconds), BATCH / statistics.median(seconds[2:])
    with capsys.disabled():
        print(f"\nsettlement: {total:,} trades of {USERS:,} users: {rate:,.0f} trades/s over all,", end=" ")
        print(f"{steady:,.0f} in the median batch after the second; raw COPY of the same rows in this run:", end=" ")
        for form in ("text", "binary"):
            raw = total / raw_copy(book, form)
            print(f"{form} {raw:,.0f} trades/s (ratio {rate / raw:.2f}, median {steady / raw:.2f}),", end=" ")
        print(f"resident memory after each batch of {BATCH:,}: {', '.join(map(str, resident))} MiB")
    assert resident[-1] - resident[1] < 150


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


def raw_copy(book: BookUnderTest, form: str) -> float:
    """COPY the rows out, then time COPY of the same bytes into bare tables."""
    with book.admin() as connection:
        seconds = 0.0
        connection.execute("CREATE SCHEMA bare")
        for table, columns in TABLES.items():
            bare = f"bare.{table.split('.')[1]}"
            connection.execute(f"CREATE TABLE {bare} AS SELECT {columns} FROM {table} WITH NO DATA".encode())
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT (FORMAT {form})".encode()) as out,
            ):
                data = b"".join(bytes(block) for block in out)
            seconds += timed(lambda data=data, bare=bare: copy_in(connection, bare, data, form))  # type: ignore[misc]
        connection.execute("DROP SCHEMA bare CASCADE")
    return seconds


def copy_in(connection: psycopg.Connection, table: str, data: bytes, form: str) -> None:
    with (
        connection.transaction(),
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} FROM STDIN (FORMAT {form})".encode()) as into,
    ):
        into.write(data)
