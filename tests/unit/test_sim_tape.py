"""Bad tapes: each rule refused by file, row and name, before anything is read further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.exchange.events import Side
from engine.sim.specs import STREAMS
from engine.sim.tape import Selection, read_tape

T0 = 1_723_161_255_342


def trade(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "market": "spot",
        "symbol": "BTCUSDT",
        "trade_id": 100 + number,
        "ts_ms": T0 + number,
        "event_ms": T0 + number,
        "price": "61837.63000000",
        "qty": "0.02000000",
        "buyer_is_maker": number % 2 == 0,
        "local_ns": 5,
    }
    return {**row, **changes}


def trades_file(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "tape.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=None if rows else pa.schema([])), path)
    return path


def aggregates_file(tmp_path: Path, rows: list[tuple[int, str, str, float, float]]) -> Path:
    path = tmp_path / "xrp_eth.parquet"
    columns = ("timestamp", "id", "side", "price", "amount")
    pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path)
    return path


def test_prints_are_read_in_ticks_and_lots_and_merged_by_exchange_time(tmp_path: Path) -> None:
    rows = [
        trade(0),
        trade(2, trade_id=101),
        trade(1, symbol="ETHUSDT", trade_id=7, price="2683.8", qty="1"),
        trade(0, market="usdm", symbol="ANY", price="nonsense"),
    ]
    prints = read_tape(trades_file(tmp_path, rows), "binance-trades")
    assert [(p.stream, p.trade_id, p.price_ticks, p.quantity_lots, p.taker_side) for p in prints] == [
        ("spot:BTCUSDT", 100, 6_183_763, 2000, Side.SELL),
        ("spot:ETHUSDT", 7, 268_380, 10_000, Side.BUY),
        ("spot:BTCUSDT", 101, 6_183_763, 2000, Side.SELL),
    ]
    only = read_tape(tmp_path / "tape.parquet", "binance-trades", Selection(symbols=("ETHUSDT",)))
    assert [p.trade_id for p in only] == [7]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"price": "0"}, r"row 3.*price 0 is out of range"),
        ({"price": "0.00000000"}, r"row 3.*out of range"),
        ({"price": "-1.00"}, r"row 3.*out of range"),
        ({"price": "NaN"}, r"row 3.*'NaN' is not a number"),
        ({"price": "1e5"}, r"row 3.*not a number"),
        ({"price": None}, r"row 3.*not a number"),
        ({"price": "1" * 30}, r"row 3.*out of range"),
        ({"price": "61837.635"}, r"row 3.*does not fit.*multiple of the tick 0.01"),
        ({"price": "61837.6300000000000000000001"}, r"row 3.*too fine.*tick 0.01"),
        ({"qty": "0"}, r"row 3.*quantity 0 is out of range"),
        ({"qty": "0.000001"}, r"row 3.*does not fit.*multiple of the lot 0.00001"),
        ({"symbol": "DOGEUSDT"}, r"row 3.*unknown symbol spot:DOGEUSDT"),
        ({"symbol": None}, r"row 3.*without market or symbol"),
        ({"market": None}, r"row 3.*without market or symbol"),
        ({"trade_id": 101}, r"row 3.*trade 101 appears twice"),
        ({"trade_id": 103}, r"row 3.*trade 102 is missing \(103 follows 101\)"),
        ({"trade_id": 99}, r"row 3.*99 follows 101"),
        ({"trade_id": 0}, r"row 3.*trade id '0'"),
        ({"trade_id": None}, r"row 3.*trade id 'None'"),
        ({"ts_ms": T0}, r"row 3.*time.*does not go back"),
        ({"ts_ms": T0 // 1000}, r"row 3.*between 2009 and 2100"),
        ({"ts_ms": T0 * 1000}, r"row 3.*between 2009 and 2100"),
        ({"ts_ms": None}, r"row 3.*time None"),
        ({"buyer_is_maker": None}, r"row 3.*no taker side"),
    ],
)
def test_bad_print_is_refused_with_file_row_and_rule(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = trades_file(tmp_path, [trade(0), trade(1), trade(2, **changes)])
    with pytest.raises(InputError, match=words) as caught:
        read_tape(path, "binance-trades")
    assert str(path) in str(caught.value)
    assert caught.value.next_step


def test_declared_gap_and_sparse_file_are_accepted(tmp_path: Path) -> None:
    path = trades_file(tmp_path, [trade(0), trade(2), trade(4)])
    gaps = frozenset({("spot:BTCUSDT", 101), ("spot:BTCUSDT", 103)})
    assert len(read_tape(path, "binance-trades", Selection(gaps=gaps))) == 3
    assert len(read_tape(path, "binance-trades", Selection(sparse=True))) == 3
    with pytest.raises(InputError, match="trade 103 is missing"):
        read_tape(path, "binance-trades", Selection(gaps=frozenset({("spot:BTCUSDT", 101)})))


def test_withheld_print_must_be_there(tmp_path: Path) -> None:
    path = trades_file(tmp_path, [trade(0), trade(1)])
    kept = read_tape(path, "binance-trades", Selection(withheld=frozenset({("spot:BTCUSDT", 100)})))
    assert [p.trade_id for p in kept] == [101]
    with pytest.raises(InputError, match="trade 999 is to be withheld"):
        read_tape(path, "binance-trades", Selection(withheld=frozenset({("spot:BTCUSDT", 999)})))


def test_truncated_file_is_refused_at_any_length(tmp_path: Path) -> None:
    path = trades_file(tmp_path, [trade(n) for n in range(50)])
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a whole Parquet file"):
            read_tape(path, "binance-trades")
    with pytest.raises(InputError, match="not a whole Parquet file"):
        read_tape(tmp_path / "absent.parquet", "binance-trades")


def test_missing_and_wrong_columns_are_named(tmp_path: Path) -> None:
    row = trade(0)
    del row["buyer_is_maker"]
    with pytest.raises(InputError, match="column 'buyer_is_maker' is missing"):
        read_tape(trades_file(tmp_path, [row]), "binance-trades")
    with pytest.raises(InputError, match="column 'price' is double"):
        read_tape(trades_file(tmp_path, [trade(0, price=1.5)]), "binance-trades")
    with pytest.raises(InputError, match="column 'timestamp' is missing"):
        read_tape(trades_file(tmp_path, [trade(0)]), "binance-aggtrades")


def test_empty_selection_and_absent_symbol_are_refused(tmp_path: Path) -> None:
    path = trades_file(tmp_path, [trade(0)])
    with pytest.raises(InputError, match="no print is selected"):
        read_tape(path, "binance-trades", Selection(market="cm"))
    with pytest.raises(InputError, match="no print of spot:ETHUSDT"):
        read_tape(path, "binance-trades", Selection(symbols=("ETHUSDT",)))


def test_floats_are_read_through_their_shortest_text(tmp_path: Path) -> None:
    path = aggregates_file(
        tmp_path, [(T0, "1", "buy", 0.00141342, 23.0), (T0, "2", "sell", 1e-08, 1.0), (T0, "3", "buy", 0.1 + 0.2, 1.0)]
    )
    with pytest.raises(InputError, match=r"row 3.*0\.30000000000000004 does not fit.*tick 1E-8"):
        read_tape(path, "binance-aggtrades")
    path = aggregates_file(tmp_path, [(T0, "1", "buy", 0.00141342, 23.0), (T0, "2", "sell", 1e-08, 1.0)])
    prints = read_tape(path, "binance-aggtrades")
    assert [(p.price_ticks, p.quantity_lots, p.taker_side) for p in prints] == [(141_342, 23, 0), (1, 1, 1)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((T0, "1", "buy", float("nan"), 1.0), r"row 1.*'nan' is not a number"),
        ((T0, "1", "buy", float("inf"), 1.0), r"row 1.*'inf' is not a number"),
        ((T0, "1", "buy", -0.5, 1.0), r"row 1.*out of range"),
        ((T0, "1", "buy", 0.5, 0.0), r"row 1.*out of range"),
        ((T0, "1", "buy", 0.5, 1.5), r"row 1.*does not fit.*lot 1"),
        ((T0, "1", "BUY", 0.5, 1.0), r"row 1.*no taker side"),
        ((T0, "x1", "buy", 0.5, 1.0), r"row 1.*trade id 'x1'"),
    ],
)
def test_bad_aggregate_is_refused(tmp_path: Path, row: tuple[int, str, str, float, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_tape(aggregates_file(tmp_path, [row]), "binance-aggtrades")


def test_aggregates_need_a_symbol_from_name_or_selection(tmp_path: Path) -> None:
    path = aggregates_file(tmp_path, [(T0, "1", "buy", 0.5, 1.0)])
    other = path.rename(tmp_path / "unnamed.parquet")
    with pytest.raises(InputError, match="do not say their symbol"):
        read_tape(other, "binance-aggtrades")
    assert len(read_tape(other, "binance-aggtrades", Selection(symbols=("XRPETH",)))) == 1


def test_every_stream_has_whole_notionals() -> None:
    assert {s.stream: (s.base_units_per_lot, s.quote_units_per_tick_lot) for s in STREAMS.values()} == {
        "spot:BTCUSDT": (1000, 10),
        "spot:ETHUSDT": (10**14, 100),
        "spot:XRPETH": (10**6, 10**10),
    }
