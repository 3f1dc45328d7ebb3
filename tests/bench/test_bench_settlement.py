"""How fast trades settle with every constraint on, beside the raw COPY of the same rows into bare tables."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from engine.sim.demo_world import DemoConfig
from engine.steps.settling import settle
from tests.fixtures.books import BookUnderTest, MakeBook

pytestmark = pytest.mark.bench

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


def test_settlement_beside_raw_copy(make_book: MakeBook, capsys: pytest.CaptureFixture[str]) -> None:
    config = DemoConfig(seed=3, days=1, users=2000, steps_per_day=100_000)
    book = make_book(None)
    from engine.sim.demo import load_demo

    load_demo(book.opened.files.journal_dir, config)
    with book.app() as connection:
        seconds = timed(lambda: settle(connection, book.opened.files.journal_dir))
    trades = int(str(book.value("SELECT count(*) FROM exchange.trades")))
    raw = raw_copy(book)
    with capsys.disabled():
        print(
            f"\nsettlement: {trades:,} trades in {seconds:.2f} s = {trades / seconds:,.0f} trades/s (journal replay and"
            f" all constraints included); raw COPY of the same rows {raw:.2f} s = {trades / raw:,.0f} trades/s;"
            f" ratio {raw / seconds:.2f}"
        )
    assert trades > 10_000


def raw_copy(book: BookUnderTest) -> float:
    """COPY the rows out, then time COPY of the same text into bare tables."""
    with book.admin() as connection:
        seconds = 0.0
        connection.execute("CREATE SCHEMA bare")
        for table, columns in TABLES.items():
            bare = f"bare.{table.split('.')[1]}"
            connection.execute(f"CREATE TABLE {bare} AS SELECT {columns} FROM {table} WITH NO DATA".encode())
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT".encode()) as out,
            ):
                data = b"".join(bytes(block) for block in out)
            seconds += timed(lambda data=data, bare=bare: copy_in(connection, bare, data))  # type: ignore[misc]
        connection.execute("DROP SCHEMA bare CASCADE")
    return seconds


def copy_in(connection: psycopg.Connection, table: str, data: bytes) -> None:
    with (
        connection.transaction(),
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} FROM STDIN".encode()) as into,
    ):
        into.write(data)
