"""Closing marks from stored readings: nearest the cut-off, by the policy's order of sources, never a stale one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from engine.close.policy import Policy
from engine.errors import UncheckedError
from engine.market.readings import raw_of
from engine.store.connect import connect
from engine.store.market import store_reading
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook
from tests.fixtures.command_line import call

DAY = SMALL.first_day
CUT = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(days=1)
VENUES = (("binance", 2), ("kraken", 1), ("okx", 1))
POLICY = Policy(
    "USDT", mark_max_age_s=86_400, mark_sources=("index", "last_trade"), index_venues=VENUES, index_band_ppm=10_000
)
PRICES = {"BTC": "64000", "ETH": "3100", "SOL": "145", "XRP": "0.52", "SHIB": "0.00002", "QTRA": "0.5"}


def store(
    book: BookUnderTest, venue: str, before_s: float, factor: str = "1", *, stamp: datetime | None = None
) -> None:
    """What a venue said so many seconds before the cut-off: every coin's price times a factor."""
    at = CUT - timedelta(seconds=before_s)
    made = {} if stamp is None else {"timestamp": int(stamp.timestamp() * 1000)}
    tickers = {f"{c}/USDT": {"last": str(Decimal(p) * Decimal(factor)), **made} for c, p in PRICES.items()}
    tickers["DOGE/USDT"] = {"last": "0.1"}
    with connect(book.opened.servers.collector.dsn(), autocommit=True) as connection:
        assert store_reading(connection, venue, at, raw_of(tickers))
        assert not store_reading(connection, venue, at, raw_of(tickers))


def marks(book: BookUnderTest) -> dict[str, tuple[Decimal, str, datetime]]:
    with book.app() as connection:
        rows = connection.execute(
            "SELECT asset, price, source, at FROM market.mark_prices WHERE close_date = %s", (DAY,)
        ).fetchall()
    return {asset: (price, source, at) for asset, price, source, at in rows}


def test_close_uses_the_index_of_the_readings_nearest_the_cut_off_and_binds_them(make_book: MakeBook) -> None:
    book = make_book(replace(SMALL, days=1), POLICY)
    for venue, factor in (("binance", "1"), ("kraken", "1.004"), ("okx", "0.5")):
        store(book, venue, 3_600, "2")
        store(book, venue, 30, factor)
        with connect(book.opened.servers.collector.dsn(), autocommit=True) as connection:
            store_reading(connection, venue, CUT + timedelta(seconds=1), raw_of({"BTC/USDT": {"last": "1"}}))
    results = {r.step: r for r in book.close(DAY)}
    found = marks(book)
    # binance twice at 64,000, kraken at 64,256, okx moved up to the edge of the band around the median.
    assert found["BTC"] == ((2 * 64_000 + 64_256 + 63_360) / Decimal(4), "index", CUT - timedelta(seconds=30))
    assert found["USDT"][1] == "reporting_currency"
    assert results["mark_prices"].metadata["unknown_symbols"] == {"DOGE/USDT": 6}
    with book.app() as connection:
        parts = connection.execute(
            "SELECT venue, price, counted, weight, encode(sha256(raw), 'hex') = sha256 FROM market.index_constituents"
            " JOIN capture.readings USING (reading_id) WHERE asset = 'BTC' ORDER BY 1"
        ).fetchall()
        assert parts == [
            ("binance", 64_000, 64_000, 2, True),
            ("kraken", 64_256, 64_256, 1, True),
            ("okx", 32_000, 63_360, 1, True),
        ]
        event = connection.execute("SELECT market.mark_at('BTC', %s)", (CUT - timedelta(minutes=55),)).fetchone()
        assert event == (128_000,)
    digest = book.value("SELECT readings FROM close.books_digests(%s)", DAY)
    assert digest != book.value("SELECT close.table_digest(NULL)")
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", DAY) == "sealed"


def test_stale_venue_never_overrides_an_internal_price(make_book: MakeBook) -> None:
    book = make_book(replace(SMALL, days=1), POLICY)
    store(book, "binance", 30, "9")
    store(book, "kraken", 30, "9", stamp=CUT - timedelta(hours=2))
    store(book, "okx", 200, "9")
    book.close(DAY)
    found = marks(book)
    assert {source.split(":")[0] for _, source, _ in found.values()} == {"last_trade", "reporting_currency"}
    last = book.value(
        "SELECT price FROM exchange.trades WHERE market = 'BTC-USDT' AND close_date = %s AND effective_at < %s"
        " ORDER BY effective_at DESC, engine_seq DESC LIMIT 1",
        DAY,
        CUT,
    )
    assert found["BTC"][0] == last


def test_internal_price_wins_where_the_policy_names_it_first(make_book: MakeBook) -> None:
    policy = replace(POLICY, mark_sources=("last_trade", "index"))
    book = make_book(replace(SMALL, days=1), policy)
    for venue, _ in VENUES:
        store(book, venue, 30, "9")
    book.close(DAY)
    assert marks(book)["BTC"][1] == "last_trade:BTC-USDT"


def test_no_fresh_source_stops_the_day_by_name_until_a_reading_is_there(make_book: MakeBook) -> None:
    book = make_book(replace(SMALL, days=1), replace(POLICY, mark_max_age_s=43_200, mark_sources=("index",)))
    with pytest.raises(UncheckedError, match=r"no fresh mark for BTC \(no index\), ETH"):
        book.close(DAY)
    for seconds in (86_460, 50_000):
        store(book, "binance", seconds)
        store(book, "okx", seconds)
    with pytest.raises(UncheckedError, match=r"BTC \(index 2026-03-02T10:06:40"):
        book.close(DAY)
    for venue in ("binance", "okx"):
        store(book, venue, 10_000)
    store(book, "binance", 20)
    store(book, "okx", 15)
    book.close(DAY)
    assert marks(book)["BTC"] == (64_000, "index", CUT - timedelta(seconds=15))
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", DAY) == "sealed"


def test_loaded_ticks_are_there_afterwards(make_book: MakeBook, tmp_path: Path) -> None:
    book = make_book(replace(SMALL, days=1), replace(POLICY, mark_sources=("desk",)))
    file = tmp_path / "ticks.csv"
    file.write_text(f"asset,at,price,source\nETH,{DAY}T23:30:00Z,3000.5,desk\nBTC,{DAY}T23:30:00Z,50000,desk\n")
    home, name = book.opened.settings.home, book.opened.book.name
    stored = "SELECT count(*) FROM market.mark_ticks WHERE source = 'desk'"
    for more, new, there in (("--dry-run",), 0, 0), ((), 2, 2), ((), 0, 2):
        answer = call(home, "market", "load", str(file), "--book", name, *more)
        assert (answer.code, answer.said["ticks"], answer.said["new"]) == (0, 2, new)
        assert book.value(stored) == there


def test_ticks_of_a_named_source_are_marks_and_those_of_a_stranger_are_not(make_book: MakeBook) -> None:
    book = make_book(replace(SMALL, days=1), replace(POLICY, mark_sources=("desk",)))
    with book.app() as connection:
        for source, price, seconds in (("rumour", 1, 1), ("desk", 7, 60), ("desk", 8, 86_400)):
            connection.execute(
                "INSERT INTO market.mark_ticks (asset, at, price, source) SELECT asset, %s, %s, %s FROM exchange.assets"
                " WHERE asset <> 'USDT'",
                (CUT - timedelta(seconds=seconds), price, source),
            )
    book.close(DAY)
    assert {(price, source) for price, source, _ in marks(book).values()} == {(7, "desk"), (1, "reporting_currency")}


@pytest.mark.parametrize(
    ("price", "at", "state"),
    [
        ("0", "2026-03-02", "23514"),
        ("NaN", "2026-03-02", "23514"),
        ("-1", "2026-03-02", "23514"),
        ("1", "9999-01-01", "CL037"),
    ],
)
def test_tick_of_zero_nan_or_the_future_is_refused_by_the_database(
    sealed_book: BookUnderTest, price: str, at: str, state: str
) -> None:
    with sealed_book.app() as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute("INSERT INTO market.mark_ticks VALUES ('BTC', %s, %s, 'desk')", (at, price))
    assert refused.value.sqlstate == state
