"""Real prints read from files, every rule checked before anything is written.

What belongs here: the two file formats, their rules, and prints in order of exchange time.
What does not: turning prints into orders (see `tape_import`), ticks and lots (see `specs`).

Only the exchange's own trade time orders and dates a print. Receipt time is never read: a recorder's clock can run
seconds behind (it does in the 2024 file), and would move trades over midnight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import InputError
from engine.exchange.events import Side
from engine.money import CONTEXT, parse_decimal, text_of, to_units
from engine.sim.specs import STREAMS, StreamSpec

TapeFormat = Literal["binance-trades", "binance-aggtrades"]
PrintId = tuple[str, int]
"""A print's name: (stream, trade id)."""

_EARLIEST_MS = 1_230_768_000_000
"""2009: earlier is a wrong unit (seconds)."""
_LATEST_MS = 4_102_444_800_000
"""2100: later is a wrong unit (microseconds)."""
_SCALE = 18

_TEXT = (pa.string(), pa.large_string())
_INT = (pa.int64(),)
_COLUMNS: dict[str, dict[str, tuple[pa.DataType, ...]]] = {
    "binance-trades": {
        "market": _TEXT,
        "symbol": _TEXT,
        "trade_id": _INT,
        "ts_ms": _INT,
        "event_ms": _INT,
        "price": _TEXT,
        "qty": _TEXT,
        "buyer_is_maker": (pa.bool_(),),
        "local_ns": _INT,
    },
    "binance-aggtrades": {
        "timestamp": _INT,
        "id": _TEXT,
        "side": _TEXT,
        "price": (pa.float64(),),
        "amount": (pa.float64(),),
    },
}


@dataclass(frozen=True, slots=True)
class Print:
    """One real trade, in ticks and lots of its stream. `row` counts from 1 in its file."""

    stream: str
    trade_id: int
    ts_ms: int
    price_ticks: int
    quantity_lots: int
    taker_side: Side
    row: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which prints of a file are meant.

    Attributes:
        market: the exchange's market (a file can hold several; spot and futures share symbols).
        symbols: of that market; None for all in the file (aggregate trades name none: the file's name tells).
        withheld: prints to leave out, as if they had not arrived yet.
        gaps: prints that are known to be missing from the file.
        sparse: the file holds only some prints of its streams (late arrivals), so gaps mean nothing.
    """

    market: str = "spot"
    symbols: tuple[str, ...] | None = None
    withheld: frozenset[PrintId] = field(default_factory=frozenset)
    gaps: frozenset[PrintId] = field(default_factory=frozenset)
    sparse: bool = False


def read_tape(path: Path, tape_format: TapeFormat, selection: Selection | None = None) -> list[Print]:
    """Read the selected prints of a file, merged by exchange time (then stream, then trade id).

    Raises:
        InputError: the file is unreadable, or a row breaks a rule; names file, row and rule.
    """
    chosen = selection or Selection()
    table = _read_columns(path, tape_format)
    rows_of = _trade_rows if tape_format == "binance-trades" else _aggregate_rows
    rows = rows_of(table, path, chosen)
    prints: list[Print] = []
    for stream, columns in rows.items():
        prints.extend(_checked(path, STREAMS[stream], columns, chosen))
    if not prints:
        raise _refuse(
            path, "no print is selected", "a tape holds at least one print of the market and symbols asked for"
        )
    prints.sort(key=lambda p: (p.ts_ms, p.stream, p.trade_id))
    return prints


@dataclass(slots=True)
class _Columns:
    """One stream's rows, column by column, in file order; prices and quantities as decimal text."""

    rows: list[int]
    ids: list[Any]
    ts_ms: list[Any]
    prices: list[Any]
    quantities: list[Any]
    sides: list[Any]


def _refuse(path: Path, what: str, rule: str, *, row: int | None = None) -> InputError:
    where = f"{path}" if row is None else f"{path}, row {row}"
    return InputError(
        f"{where}: {what}", rule=rule, next_step="correct or fetch the file again; nothing was imported from it"
    )


def _read_columns(path: Path, tape_format: str) -> pa.Table:
    """The format's columns of a Parquet file, types checked."""
    wanted = _COLUMNS.get(tape_format)
    if wanted is None:
        raise InputError(f"tape format {tape_format!r} is not known", rule=f"one of {', '.join(_COLUMNS)}")
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            for name, types in wanted.items():
                if name not in schema.names:
                    raise _refuse(path, f"column {name!r} is missing", f"{tape_format} has {', '.join(wanted)}")
                if schema.field(name).type not in types:
                    found = schema.field(name).type
                    raise _refuse(path, f"column {name!r} is {found}", f"{tape_format} has it as {types[0]}")
            return file.read(columns=list(wanted))
    except (OSError, pa.ArrowException) as error:
        raise _refuse(
            path, f"not a whole Parquet file: {str(error)[:200]}", "a tape is a complete, readable Parquet file"
        ) from None


def _trade_rows(table: pa.Table, path: Path, chosen: Selection) -> dict[str, _Columns]:
    """The selected streams' rows of a binance-trades table."""
    numbered = table.append_column("row", pa.array(range(1, table.num_rows + 1), pa.int64()))
    nameless = numbered.filter(pc.or_(pc.is_null(numbered["market"]), pc.is_null(numbered["symbol"])))
    if nameless.num_rows:
        rule = "market and symbol together name a stream"
        raise _refuse(path, "a print without market or symbol", rule, row=nameless["row"][0].as_py())
    here = numbered.filter(pc.equal(numbered["market"], chosen.market))
    present = set(here["symbol"].to_pylist())
    wanted = present if chosen.symbols is None else set(chosen.symbols)
    for symbol in sorted(wanted - present):
        raise _refuse(path, f"no print of {chosen.market}:{symbol}", "the file holds the symbols asked for")
    rows = {}
    for symbol in sorted(wanted):
        some = here.filter(pc.equal(here["symbol"], symbol))
        stream = _known_stream(path, chosen.market, symbol, some["row"][0].as_py())
        rows[stream] = _Columns(
            some["row"].to_pylist(),
            some["trade_id"].to_pylist(),
            some["ts_ms"].to_pylist(),
            some["price"].to_pylist(),
            some["qty"].to_pylist(),
            # The buyer was the maker: then the taker sold.
            [{True: Side.SELL, False: Side.BUY}.get(value) for value in some["buyer_is_maker"].to_pylist()],
        )
    return rows


def _aggregate_rows(table: pa.Table, path: Path, chosen: Selection) -> dict[str, _Columns]:
    """All rows of a binance-aggtrades table, which is one stream."""
    symbols = chosen.symbols if chosen.symbols is not None else _symbols_of_name(path, chosen.market)
    if len(symbols) != 1:
        raise InputError(
            f"{path}: aggregate trades do not say their symbol, and the file's name does not tell it",
            rule="one symbol a file",
            next_step="name it: --symbol XRPETH",
        )
    stream = _known_stream(path, chosen.market, symbols[0], 1)
    sides = {"buy": Side.BUY, "sell": Side.SELL}
    columns = _Columns(
        list(range(1, table.num_rows + 1)),
        table["id"].to_pylist(),
        table["timestamp"].to_pylist(),
        [_shortest(value) for value in table["price"].to_pylist()],
        [_shortest(value) for value in table["amount"].to_pylist()],
        [sides.get(value) for value in table["side"].to_pylist()],
    )
    return {stream: columns}


def _symbols_of_name(path: Path, market: str) -> tuple[str, ...]:
    """Known symbols that a file's name contains: `xrp_eth_aggtrades_….parquet` is XRPETH."""
    name = path.name.upper().replace("_", "").replace("-", "")
    return tuple(spec.symbol for spec in STREAMS.values() if spec.market == market and spec.symbol in name)


def _known_stream(path: Path, market: str, symbol: str, row: int) -> str:
    stream = f"{market}:{symbol}"
    if stream not in STREAMS:
        raise _refuse(path, f"unknown symbol {stream}", f"one of {', '.join(STREAMS)}", row=row)
    return stream


def _shortest(value: float | None) -> str | None:
    """A float's shortest decimal text, without an exponent: the number that was meant, never the binary value."""
    if value is None:
        return None
    text = repr(value)
    return text_of(Decimal(text)) if "e" in text else text


def _checked(path: Path, spec: StreamSpec, columns: _Columns, chosen: Selection) -> Iterable[Print]:
    """One stream's prints in file order, or the first rule that a row breaks."""
    stream = spec.stream
    tick = to_units(spec.tick, _SCALE, record=stream)
    lot = to_units(spec.lot, _SCALE, record=stream)
    known_prices: dict[str | None, int] = {}
    known_quantities: dict[str | None, int] = {}
    seen: set[int] = set()
    last_id: int | None = None
    last_ms = 0
    for row, raw_id, ts_ms, price, quantity, side in zip(
        columns.rows, columns.ids, columns.ts_ms, columns.prices, columns.quantities, columns.sides, strict=True
    ):
        trade_id = _trade_id(path, row, raw_id)
        if trade_id in seen:
            raise _refuse(
                path, f"{stream} trade {trade_id} appears twice", "a trade id is unique in its stream", row=row
            )
        seen.add(trade_id)
        if last_id is not None:
            _check_order(path, row, stream, last_id, trade_id, chosen)
        last_id = trade_id
        if side is None:
            raise _refuse(path, f"{stream} trade {trade_id} has no taker side", "buy or sell", row=row)
        _check_time(path, row, stream, trade_id, ts_ms, last_ms)
        last_ms = ts_ms
        # Prices and quantities repeat: each distinct text is read once.
        ticks = known_prices.get(price)
        if ticks is None:
            rule = f"a multiple of the tick {spec.tick}"
            ticks = known_prices[price] = _steps(path, row, f"{stream} trade {trade_id}: price", price, tick, rule)
        lots = known_quantities.get(quantity)
        if lots is None:
            rule = f"a multiple of the lot {spec.lot}"
            what = f"{stream} trade {trade_id}: quantity"
            lots = known_quantities[quantity] = _steps(path, row, what, quantity, lot, rule)
        if (stream, trade_id) not in chosen.withheld:
            yield Print(stream, trade_id, ts_ms, ticks, lots, side, row)
    absent = {one for name, one in chosen.withheld if name == stream} - seen
    if absent:
        raise _refuse(path, f"{stream} trade {min(absent)} is to be withheld and is not there", "withheld prints exist")


def _trade_id(path: Path, row: int, raw: Any) -> int:
    text = str(raw)
    if raw is None or not text.isascii() or not text.isdecimal() or not 0 < int(text) < 2**63:
        raise _refuse(path, f"trade id {text[:40]!r}", "a trade id is a positive integer", row=row)
    return int(text)


def _check_order(path: Path, row: int, stream: str, last_id: int, trade_id: int, chosen: Selection) -> None:
    if trade_id < last_id:
        raise _refuse(path, f"{stream} trade {trade_id} follows {last_id}", "trade ids rise within a stream", row=row)
    if chosen.sparse:
        return
    # Ends at the first one, so that a wild id is a refusal and not a long walk.
    missing = next((one for one in range(last_id + 1, trade_id) if (stream, one) not in chosen.gaps), None)
    if missing is not None:
        raise _refuse(
            path,
            f"{stream} trade {missing} is missing ({trade_id} follows {last_id})",
            "trade ids have no gap in a stream unless it is declared",
            row=row,
        )


def _check_time(path: Path, row: int, stream: str, trade_id: int, ts_ms: int | None, last_ms: int) -> None:
    if ts_ms is None or not _EARLIEST_MS <= ts_ms < _LATEST_MS:
        raise _refuse(path, f"{stream} trade {trade_id}: time {ts_ms}", "milliseconds between 2009 and 2100", row=row)
    if ts_ms < last_ms:
        rule = "exchange time does not go back within a stream"
        raise _refuse(path, f"{stream} trade {trade_id}: time {ts_ms} after {last_ms}", rule, row=row)


def _steps(path: Path, row: int, what: str, text: str | None, step: int, rule: str) -> int:
    """How many ticks or lots a decimal text is, exactly."""
    try:
        value = parse_decimal(text or "", record=what)
        units = int(CONTEXT.to_integral_exact(value.scaleb(_SCALE, CONTEXT))) if abs(value) < 10**20 else 0
    except InputError:
        raise _refuse(path, f"{what} {text!r} is not a number", "a plain decimal number above zero", row=row) from None
    except ArithmeticError:
        raise _refuse(path, f"{what} {text} is too fine", rule, row=row) from None
    if units <= 0:
        raise _refuse(path, f"{what} {text} is out of range", "a plain decimal number above zero", row=row)
    steps, rest = divmod(units, step)
    if rest or steps >= 2**63:
        raise _refuse(path, f"{what} {text} does not fit", rule, row=row)
    return steps
