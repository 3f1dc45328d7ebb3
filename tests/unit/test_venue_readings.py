"""Venue readings: exact text from venues and files; what cannot be used is named and counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, InputError, UncheckedError
from engine.gateways import venues
from engine.market.index import IndexRule
from engine.market.readings import price_of, raw_of, read_tickers
from engine.market.ticks import StoredReading, index_ticks
from pipelines.cli.market import poll, readings_in, ticks_in

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MS = int(NOW.timestamp() * 1000)
COINS = ("BTC", "ETH", "USDT")


class FakeVenue:
    """Shaped like a ccxt exchange."""

    def __init__(self, tickers: Mapping[str, Mapping[str, Any]], *, all_at_once: bool = True) -> None:
        self.id = "binance"
        self.has = {"fetchTickers": all_at_once}
        self.tickers = tickers
        self.symbols = list(tickers)

    def fetch_tickers(self, symbols: list[str]) -> dict[str, Any]:
        return {symbol: self.tickers[symbol] for symbol in symbols}

    def fetch_ticker(self, symbol: str) -> Mapping[str, Any]:
        return self.tickers[symbol]


@pytest.mark.parametrize("all_at_once", [True, False])
def test_venue_is_asked_for_what_it_lists_and_its_digits_are_kept(all_at_once: bool) -> None:
    venue = FakeVenue(
        {
            "BTC/USDT": {"last": 64000.1, "timestamp": MS - 5, "info": {"secret": "no"}},
            "ETH/USDT": {"last": "3100.000000000000000001", "timestamp": None},
            "DOGE/USDT": {"last": 0.1, "timestamp": MS},
        },
        all_at_once=all_at_once,
    )
    raw = venues.ask(venue, ["BTC/USDT", "ETH/USDT", "SOL/USDT"])
    assert b"secret" not in raw
    read = read_tickers("binance", NOW, raw, COINS, "USDT")
    assert {asset: quote.price for asset, quote in read.quotes.items()} == {
        "BTC": Decimal("64000.1"),
        "ETH": Decimal("3100.000000000000000001"),
    }
    assert read.quotes["BTC"].at == NOW - timedelta(milliseconds=5)
    assert read.quotes["ETH"].at == NOW


def test_venue_that_fails_is_unchecked_and_the_others_are_asked_all_the_same() -> None:
    broken = FakeVenue({})
    broken.fetch_tickers = lambda symbols: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(UncheckedError, match="binance gave no tickers: ZeroDivisionError"):
        venues.ask(broken, ["BTC/USDT"])
    with pytest.raises(UncheckedError, match="KeyError"):
        venues.ask(FakeVenue({}, all_at_once=False), ["BTC/USDT"])
    said, failed = poll([broken, FakeVenue({"BTC/USDT": {"last": "1"}})], ["BTC/USDT"])
    assert [name for name, _, _ in said] == ["binance"]
    assert len(failed) == 1


def test_ccxt_is_imported_only_when_asked_for_and_its_absence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    with pytest.raises(ConfigError, match="ccxt is not installed"):
        venues.by_name("kraken")


def test_ccxt_venue_is_made_by_name_with_numbers_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        exchanges = venues.NAMES

        @staticmethod
        def kraken(options: dict[str, Any]) -> FakeVenue:
            assert options["enableRateLimit"]
            return FakeVenue({})

    monkeypatch.setitem(sys.modules, "ccxt", Module)  # type: ignore[arg-type]
    assert venues.by_name("kraken").number is str  # type: ignore[attr-defined]
    for unknown in ("mtgox", "os.system", "exchanges"):
        with pytest.raises(ConfigError, match="no venue"):
            venues.by_name(unknown)


def test_unknown_symbols_are_counted_and_bad_prices_named() -> None:
    raw = (
        b'{"BTC/USDT":{"last":NaN},"ETH/USDT":{"last":0},"XRP/USDT":{"last":"1"},"BTC/EUR":{"last":"1"},'
        b'"USDT/USDT":{"last":"1"}}'
    )
    read = read_tickers("okx", NOW, raw, COINS, "USDT")
    assert read.quotes == {}
    assert read.unknown == ("BTC/EUR", "USDT/USDT", "XRP/USDT")
    assert sorted(read.refused) == ["BTC/USDT", "ETH/USDT"]
    assert "'NaN' is no price" in read.refused["BTC/USDT"]


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "NaN",
        "Infinity",
        "1e30",
        "",
        "1_000",
        "0x10",
        "1,5",
        None,
        True,
        1.5,
        "0.0000000000000000001",
        "9" * 65,
    ],
)
def test_what_is_no_price_is_refused(text: object) -> None:
    with pytest.raises(InputError, match=r"no price|18 decimals"):
        price_of(text, "BTC/USDT")


def test_price_with_an_exponent_is_exact() -> None:
    assert price_of("1.2e-7", "SHIB/USDT") == Decimal("0.00000012")


@pytest.mark.parametrize(
    ("stamp", "refused"),
    [(MS + 4_000, False), (MS + 6_000, True), ("soon", True), (-1, True), (1.5, True), (None, False)],
)
def test_price_of_the_future_is_refused_beyond_a_clocks_skew(stamp: object, refused: bool) -> None:
    raw = raw_of({"BTC/USDT": {"last": "5", "timestamp": stamp}})
    read = read_tickers("okx", NOW, raw, COINS, "USDT")
    assert bool(read.refused) is refused
    if not refused:
        assert read.quotes["BTC"].at == NOW


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1]", b'{"BTC/USDT": 5}', b"[" * 100_000])
def test_reading_that_is_none_is_refused_whole_and_the_others_count(raw: bytes) -> None:
    with pytest.raises(InputError):
        read_tickers("okx", NOW, raw, COINS, "USDT")
    good = raw_of({"BTC/USDT": {"last": "5"}})
    rule = IndexRule({"okx": 1, "kraken": 1, "binance": 1}, 2, 0, 60)
    readings = [
        StoredReading(n, v, NOW, r) for n, (v, r) in enumerate((("binance", good), ("kraken", good), ("okx", raw)))
    ]
    found = index_ticks(readings, rule, COINS, "USDT")
    assert [(t.asset, t.price.price) for t in found.ticks] == [("BTC", 5)]
    assert found.ticks[0].readings == {"binance": 0, "kraken": 1}
    assert sum(found.refused.values()) == 1


def test_ticks_of_a_day_use_each_venues_last_word_while_it_is_fresh() -> None:
    rule = IndexRule({"okx": 1, "kraken": 1}, 2, 500_000, 60)
    at = [NOW + timedelta(seconds=s) for s in (0, 30, 61, 90)]

    def said(n: int, venue: str, price: str, when: datetime) -> StoredReading:
        return StoredReading(n, venue, when, raw_of({"BTC/USDT": {"last": price}}))

    readings = [
        said(1, "okx", "10", at[0]),
        said(2, "kraken", "20", at[1]),
        said(3, "kraken", "30", at[2]),
        said(4, "okx", "50", at[3]),
    ]
    found = index_ticks(readings, rule, COINS, "USDT")
    assert [(t.at, t.price.price) for t in found.ticks] == [(at[1], 15), (at[3], 40)]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_readings_file_keeps_its_digits(tmp_path: Path) -> None:
    line = '{"venue":"okx","at":"2026-03-02T11:59:00Z","tickers":{"BTC/USDT":{"last":64000.10000000000000001}}}'
    ((name, at, raw),) = readings_in(write(tmp_path / "r.jsonl", line), {"okx"}, NOW)
    assert (name, at) == ("okx", NOW - timedelta(minutes=1))
    assert read_tickers(name, at, raw, COINS, "USDT").quotes["BTC"].price == Decimal("64000.10000000000000001")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"venue": "mtgox"}, "not known"),
        ({"venue": 5}, "not known"),
        ({"venue": None}, "a reading has venue"),
        ({"at": "2026-03-02T12:00:01Z"}, "has not come"),
        ({"at": "2026-03-02T11:00:00"}, "no instant"),
        ({"at": "yesterday"}, "no instant"),
        ({"tickers": []}, "a reading has venue"),
        ({"tickers": {"BTC/USDT": "5"}}, "a ticker is an object"),
    ],
)
def test_line_of_a_readings_file_that_is_none_is_refused_by_number(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    good = {"venue": "okx", "at": "2026-03-02T11:59:00Z", "tickers": {"BTC/USDT": {"last": "5"}}}
    path = write(tmp_path / "r.jsonl", json.dumps(good), json.dumps({**good, **change}))
    with pytest.raises(InputError, match=f"line 2.*{why}"):
        list(readings_in(path, {"okx"}, NOW))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("DOGE,2026-03-02T11:00:00Z,5,desk", "not one of this book"),
        ("BTC,2026-03-02T11:00:00Z,0,desk", "no price"),
        ("BTC,2026-03-02T11:00:00Z,NaN,desk", "no price"),
        ("BTC,2026-03-02T13:00:00Z,5,desk", "has not come"),
        ("BTC,2026-03-02T11:00:00Z,5,rumour", "'rumour' is not known"),
        ("BTC,2026-03-02T11:00:00Z,5,index", "'index' is not known"),
        ("BTC,2026-03-02T11:00:00Z", "no price|not known|no instant"),
    ],
)
def test_row_of_a_tick_file_that_is_none_is_refused_by_number(tmp_path: Path, row: str, why: str) -> None:
    path = write(tmp_path / "t.csv", "asset,at,price,source", "BTC,2026-03-02T11:00:00Z,5,desk", row)
    with pytest.raises(InputError, match=f"line 3.*({why})"):
        list(ticks_in(path, set(COINS), {"desk", "index", "last_trade"}, NOW))
