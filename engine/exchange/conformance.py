"""A stream of plain messages through either engine's book, and the hash of everything that it reports.

What belongs here: reading a stream's file, the reports as text, the figures of a run.
What does not: matching (see `book_stream` and `kernels.stream`).

The format is that of flash1-dev's matching-engine-benchmark: a Parquet row a message with columns type (0 new,
1 cancel, 2 modify), side (0 buy, 1 sell), ioc, qty, order_id and price_ticks; the row's index is its sequence. A modify
is a cancel and a reinsert on the order's own side. Reports are lines of text, joined by line feeds.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError, UncheckedError
from engine.exchange import book_stream
from engine.exchange.collector import paused
from engine.exchange.memory import memory_bytes

COLUMNS = ("type", "side", "ioc", "qty", "order_id", "price_ticks")
_RULE = "columns type 0-2, side 0-1, ioc 0-1, qty of at least 1, order_id unsigned and price_ticks signed 64-bit"
_ROW_BYTES = 500
"""What a message takes at most: columns, reports, its slot or order."""
_TICKS_PER_MESSAGE = 4
_LEAST_TICKS = 1 << 20
_LINES = 1 << 16
_LINE_BYTES = 128

Ints = npt.NDArray[np.int64]


class EngineName(StrEnum):
    """The two engines of the one contract."""

    PYTHON = "python"
    NUMBA = "numba"


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream's columns, checked; order ids are unsigned, the rest signed."""

    kinds: npt.NDArray[np.uint8]
    sides: npt.NDArray[np.uint8]
    iocs: npt.NDArray[np.uint8]
    quantities: Ints
    order_ids: npt.NDArray[np.uint64]
    prices: Ints

    def __len__(self) -> int:
        return len(self.kinds)


class Reports(Protocol):
    """What a run reported, in whatever form its engine keeps it."""

    def __len__(self) -> int: ...

    def sha256(self) -> str:
        """Hex SHA-256 of the lines."""
        ...

    def rows(self) -> list[tuple[int, ...]]:
        """The numbers of each line."""
        ...


@dataclass(frozen=True, slots=True)
class Conformance:
    """What a run did; `seconds` is from columns in memory to reports in memory, without text and hash."""

    engine: EngineName
    messages: int
    reports: int
    sha256: str
    seconds: float

    @property
    def messages_per_second(self) -> int:
        """Messages by seconds."""
        return int(self.messages / self.seconds) if self.seconds else 0


def read_stream(path: Path) -> Stream:
    """Read a stream's Parquet file.

    Raises:
        InputError: it cannot be read, lacks a column, or a row breaks the format.
        UncheckedError: it is larger than this machine's memory.
    """
    try:
        with pq.ParquetFile(path) as file:
            names, rows = file.schema_arrow.names, file.metadata.num_rows
            if missing := [name for name in COLUMNS if name not in names]:
                raise _refused(f"stream {path} has no column {', '.join(missing)}")
            if twice := [name for name in COLUMNS if names.count(name) > 1]:
                raise _refused(f"stream {path} has column {', '.join(twice)} twice")
            if rows * _ROW_BYTES > memory_bytes():
                raise UncheckedError(
                    f"stream {path} has {rows} messages, more than this machine's memory holds",
                    rule=f"a stream is matched in memory, {_ROW_BYTES} bytes a message",
                    next_step="run it on a larger machine, or a part of it",
                )
            table = file.read(columns=list(COLUMNS))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        # A damaged footer may name columns in bytes that are no text.
        raise _refused(f"stream {path}: {getattr(error, 'strerror', None) or str(error)[:200]}") from None
    return stream_of({name: table.column(name) for name in COLUMNS}, name=str(path))


def _refused(what: str) -> InputError:
    return InputError(what, rule=_RULE, next_step="correct the file")


def stream_of(columns: dict[str, Any], *, name: str) -> Stream:
    """A stream from columns (Arrow or sequences of integers).

    Raises:
        InputError: a value is missing, is no integer, or breaks the format.
    """
    kinds = {"order_id": pa.uint64()}
    arrays: dict[str, Any] = {}
    for column, values in columns.items():
        kind = kinds.get(column, pa.int64())
        try:
            array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)
            if not pa.types.is_integer(array.type) and not pa.types.is_boolean(array.type) and len(array):
                raise _refused(f"stream {name}: column {column} is {array.type}, not an integer")
            if array.null_count:
                raise _refused(f"stream {name}: column {column} lacks {array.null_count} values")
            # Copied, since Arrow's memory is read-only and numba would compile the kernel once more for that.
            arrays[column] = array.cast(kind).to_numpy(zero_copy_only=False).copy()
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise _refused(f"stream {name}: column {column}: {str(error)[:200]}") from None
    _check(arrays, name)
    small = {column: arrays[column].astype(np.uint8) for column in ("type", "side", "ioc")}
    return Stream(small["type"], small["side"], small["ioc"], arrays["qty"], arrays["order_id"], arrays["price_ticks"])


def _check(arrays: dict[str, Any], name: str) -> None:
    for column, most in (("type", 2), ("side", 1), ("ioc", 1)):
        wrong = np.flatnonzero((arrays[column] < 0) | (arrays[column] > most))
        if len(wrong):
            raise _refused(f"stream {name}, row {wrong[0]}: {column} is {arrays[column][wrong[0]]}")
    empty = np.flatnonzero((arrays["type"] != book_stream.CANCEL) & (arrays["qty"] < 1))
    if len(empty):
        raise _refused(f"stream {name}, row {empty[0]}: qty is {arrays['qty'][empty[0]]}")


def run(stream: Stream, engine: EngineName) -> tuple[Conformance, Reports]:
    """Match a stream into an empty book.

    Raises:
        InputError: a new order carries the id of one that rests.
    """
    match = _run_numba if engine == EngineName.NUMBA else _run_python
    reports, seconds = match(stream)
    return Conformance(engine, len(stream), len(reports), reports.sha256(), seconds), reports


def _taken(seq: int, stream: Stream) -> InputError:
    return InputError(
        f"row {seq} of the stream is a new order with id {stream.order_ids[seq]}, which rests",
        rule="an id can be used again once its order is filled or cancelled",
        next_step="correct the file",
    )


class _Tuples:
    def __init__(self, found: list[tuple[int, ...]]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def sha256(self) -> str:
        return hashlib.sha256("\n".join(",".join(map(str, row)) for row in self._found).encode()).hexdigest()

    def rows(self) -> list[tuple[int, ...]]:
        return self._found


def _run_python(stream: Stream) -> tuple[Reports, float]:
    columns = [
        column.tolist()
        for column in (
            stream.kinds,
            stream.sides,
            stream.iocs,
            stream.quantities,
            stream.order_ids,
            stream.prices,
        )
    ]
    with paused():
        started = time.perf_counter()
        try:
            come_back = _ids_come_back(stream)
            found = book_stream.match_stream(zip(*columns, strict=True), ids_come_back=come_back)
        except book_stream.TakenIdError as error:
            raise _taken(error.seq, stream) from None
        seconds = time.perf_counter() - started
    return _Tuples(found), seconds


def _ids_come_back(stream: Stream) -> bool:
    """Whether two new orders share an id."""
    new = stream.order_ids[stream.kinds == book_stream.NEW]
    if not len(new):
        return False
    if int(new.max()) <= 4 * len(new) + 1024:
        return bool(np.bincount(new.view(np.int64)).max() > 1)
    return len(np.unique(new)) < len(new)


class _Array:
    def __init__(self, found: Ints) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def sha256(self) -> str:
        from engine.exchange.kernels.stream import write_lines

        digest = hashlib.sha256()
        text = np.empty(_LINES * _LINE_BYTES, np.uint8)
        for first in range(0, len(self._found), _LINES):
            last = min(first + _LINES, len(self._found))
            size = write_lines(self._found, first, last, text)
            # No line feed after the last line.
            digest.update(text[: size - (last == len(self._found))].data)
        return digest.hexdigest()

    def rows(self) -> list[tuple[int, ...]]:
        widths = (6, 6, 5, 6, 3, 3)
        unsigned = self._found.view(np.uint64)
        ids = {0: (3,), 1: (4, 5), 2: (3,), 3: (3,), 4: (2,), 5: (2,)}
        made = []
        for row, raw in zip(self._found.tolist(), unsigned.tolist(), strict=True):
            made.append(tuple(raw[i] if i in ids[row[0]] else row[i] for i in range(widths[row[0]])))
        return made


def _run_numba(stream: Stream) -> tuple[Reports, float]:
    from engine.exchange.kernels import bitmap
    from engine.exchange.kernels.stream import match_stream

    _warm()
    started = time.perf_counter()
    count = len(stream)
    keys, distinct = _dense_ids(stream.order_ids)
    ticks, size = _dense_prices(stream)
    rows = bitmap.layout(size)
    reports = np.empty((3 * count, 6), np.int64)
    found = match_stream(
        stream.kinds,
        stream.sides,
        stream.iocs,
        stream.quantities,
        stream.order_ids.view(np.int64),
        keys,
        ticks,
        stream.prices,
        np.zeros((count + 1, 8), np.int64),
        np.zeros(distinct, np.uint32),
        np.zeros((size, 2), np.uint32),
        np.zeros(rows[-1], np.uint64),
        np.array(rows, np.int64),
        reports,
    )
    seconds = time.perf_counter() - started
    if found < 0:
        raise _taken(-1 - found, stream)
    return _Array(reports[:found]), seconds


def _dense_ids(order_ids: npt.NDArray[np.uint64]) -> tuple[Ints, int]:
    """Numbers of order ids without large holes: the ids themselves where they are small."""
    count = len(order_ids)
    most = int(order_ids.max()) if count else 0
    if most <= 4 * count + 1024:
        return order_ids.view(np.int64), most + 1
    from engine.exchange.kernels.stream import intern_ids

    keys = np.empty(count, np.int64)
    table = np.zeros(1 << (2 * count).bit_length(), np.int64)
    return keys, max(1, int(intern_ids(order_ids, table, keys)))


def _dense_prices(stream: Stream) -> tuple[Ints, int]:
    """Numbers of prices that grow with them: ticks above the lowest, or ranks where prices lie far apart."""
    placed = stream.kinds != book_stream.CANCEL
    prices = stream.prices
    if not placed.any():
        return np.zeros(len(prices), np.int64), 1
    low, high = int(prices.min(where=placed, initial=2**63 - 1)), int(prices.max(where=placed, initial=-(2**63)))
    if high - low < max(_LEAST_TICKS, _TICKS_PER_MESSAGE * len(prices)):
        return prices - low, high - low + 1
    different, ranks = np.unique(prices, return_inverse=True)
    return ranks.astype(np.int64), len(different)


_warmed: list[bool] = []


def _warm() -> None:
    """Load the kernel before the clock starts, compiled now or from the cache."""
    if not _warmed:
        _warmed.append(True)
        columns = dict(zip(COLUMNS, ([0, 1], [0, 0], [0, 0], [1, 1], [1, 2**60], [1, 0]), strict=True))
        _run_numba(stream_of(columns, name="warm-up"))
