"""Lots and P&L in Postgres: a day's events and opening lots read into arrays, what it leaves written by COPY.

What belongs here: those reads and writes.
What does not: booking (see `engine.valuation.day`), and what events are worth (see `engine/store/migrations`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from engine.clock import day_number
from engine.errors import GateError
from engine.exchange.kernels.copy_fields import GROUPS, LIMBS
from engine.store.copy_binary import EPOCH_DAYS, HEADER, TRAILER
from engine.valuation import events
from engine.valuation.day import GAIN_COLUMNS, IS_VALUE, BookedDay, Opening
from engine.valuation.events import Positions, Trades, Transfers
from engine.valuation.kernels import copy_rows

Array = npt.NDArray[Any]
_BLOCK = 1 << 22
_LOT_COLUMNS = (
    "close_date, version, user_id, asset, lot_seq, lot_no, acquired_on, acquired_quantity, acquired_cost, quantity,"
    " cost"
)
_LONGEST_NUMERIC, _PLAIN_BYTES = 36, 80
"""Bytes of a numeric field of 38 digits, and of the other fields of a row without its asset's name."""


@dataclass(frozen=True, slots=True)
class Assets:
    """The assets of a book by the engine's number; `symbols` has an empty name where a number is none's."""

    symbols: tuple[str, ...]
    decimals: Array
    currency: int

    @property
    def currency_decimals(self) -> int:
        """Of the reporting currency."""
        return int(self.decimals[self.currency])


def assets_on(connection: psycopg.Connection, day: date) -> Assets:
    """The assets of a book, and its reporting currency on a date."""
    rows = connection.execute("SELECT engine_id, asset, decimals FROM exchange.assets").fetchall()
    currency = connection.execute("SELECT asset FROM positions.currency_on(%s)", (day,)).fetchone()
    assert currency is not None
    names, decimals = [""] * (max(row[0] for row in rows) + 1), np.zeros(max(row[0] for row in rows) + 1, np.int64)
    for number, name, places in rows:
        names[number], decimals[number] = name, places
    return Assets(tuple(names), decimals, names.index(currency[0]))


def begin(connection: psycopg.Connection, day: date, epoch: int) -> None:
    """Check the opening state, value the day's events, and make room for its rows."""
    connection.execute("SELECT positions.begin_lots(%s, %s)", (day, epoch))


def read_trades(connection: psycopg.Connection, day: date, version: int, assets: Assets) -> Trades:
    """The fills of a day with their values, in the engine's order."""
    numbers, amounts, negative = _read(
        connection,
        "SELECT t.engine_seq, t.fill_index, b.engine_id, q.engine_id, t.maker_id, t.taker_id,"
        " (t.taker_side = 'buy')::int, t.quantity, t.quote_quantity, t.maker_fee, t.taker_fee, v.value,"
        " v.maker_fee_value, v.taker_fee_value"
        " FROM exchange.trades t JOIN exchange.markets m USING (market)"
        " JOIN exchange.assets b ON b.asset = m.base JOIN exchange.assets q ON q.asset = m.quote"
        " LEFT JOIN positions.trade_values v"
        " ON v.close_date = t.close_date AND v.version = %s AND v.trade_id = t.trade_id"
        " WHERE t.close_date = %s",
        (version, day),
        7 * [copy_rows.NUMBER] + 7 * [copy_rows.AMOUNT],
        [0] * 7 + [-3, -4, -4, -4] + [assets.currency_decimals] * 3,
        assets,
    )
    seq, fill = numbers[:, 0], numbers[:, 1]
    if ((seq[1:] < seq[:-1]) | ((seq[1:] == seq[:-1]) & (fill[1:] < fill[:-1]))).any():
        order = np.lexsort((fill, seq))
        numbers, amounts, negative = numbers[order], amounts[order], negative[order]
    of_currency = (numbers[:, 3] == assets.currency)[:, None]

    def column(at: int) -> Array:
        return np.ascontiguousarray(amounts[:, at])

    return Trades(
        seq=numbers[:, 0],
        fill=numbers[:, 1],
        base=numbers[:, 2],
        quote=numbers[:, 3],
        maker=numbers[:, 4],
        taker=numbers[:, 5],
        taker_buys=numbers[:, 6] == 1,
        quantity=column(7),
        quote_quantity=column(8),
        fees=(column(9), column(10)),
        rebate=(negative[:, 9], negative[:, 10]),
        value=np.where(of_currency, column(8), column(11)),
        fee_values=(np.where(of_currency, column(9), column(12)), np.where(of_currency, column(10), column(13))),
    )


_KINDS = {
    "deposit": (events.DEPOSIT, events.REVERSED),
    "withdrawal": (events.REWARD, events.WITHDRAWN),
    "reward": (events.REWARD, events.ADJUSTED_DOWN),
    "adjustment": (events.ADJUSTED_UP, events.ADJUSTED_DOWN),
}


def read_transfers(connection: psycopg.Connection, day: date, version: int, assets: Assets) -> Transfers:
    """The day's deposits, withdrawals, rewards and adjustments with their values, in the engine's order.

    Raises:
        GateError: a withdrawal that brings something, or a reward that takes; names user and sequence.
    """
    numbers, amounts, negative = _read(
        connection,
        "SELECT t.engine_seq, t.user_id, a.engine_id,"
        " array_position(ARRAY['deposit', 'withdrawal', 'reward', 'adjustment'], t.term) - 1, t.quantity, t.value"
        " FROM positions.transfers t JOIN exchange.assets a USING (asset) WHERE t.close_date = %s AND t.version = %s"
        " ORDER BY t.engine_seq, t.user_id, t.asset",
        (day, version),
        4 * [copy_rows.NUMBER] + 2 * [copy_rows.AMOUNT],
        [0] * 4 + [-3, assets.currency_decimals],
        assets,
    )
    names = list(_KINDS)
    wrong = ((numbers[:, 3] == names.index("withdrawal")) & ~negative[:, 4]) | (
        (numbers[:, 3] == names.index("reward")) & negative[:, 4]
    )
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise GateError(
            f"{names[numbers[at, 3]]} of user {numbers[at, 1]} at sequence {numbers[at, 0]} has the wrong sign",
            rule="a withdrawal takes and a reward gives",
            next_step="docs/runbooks/quantity_identity.md",
        )
    kinds = np.array([_KINDS[name] for name in names], np.int64)
    return Transfers(
        seq=numbers[:, 0],
        user=numbers[:, 1],
        asset=numbers[:, 2],
        kind=kinds[numbers[:, 3], negative[:, 4].astype(np.int64)],
        quantity=np.ascontiguousarray(amounts[:, 4]),
        value=np.ascontiguousarray(amounts[:, 5]),
    )


def read_opening(connection: psycopg.Connection, day: date, positions: Positions, assets: Assets) -> Opening:
    """The lots that positions begin a day with.

    Raises:
        GateError: the lots of a position do not sum to it; names user and asset.
    """
    symbols = np.array(assets.symbols, object)
    numbers, amounts, _ = _read(
        connection,
        "SELECT o.n, a.engine_id, o.lot_seq, o.lot_no, o.acquired_on, o.quantity, o.cost, o.acquired_quantity,"
        " o.acquired_cost, o.lot_quantity, o.lot_cost"
        " FROM positions.opening(%s, %s, %s) o"
        " JOIN unnest(%s::int[]) WITH ORDINALITY a (engine_id, n) ON a.n = o.n + 1",
        (day, positions.users.tolist(), symbols[positions.assets].tolist(), positions.assets.tolist()),
        5 * [copy_rows.NUMBER] + 6 * [copy_rows.AMOUNT],
        [0] * 5 + [-2, assets.currency_decimals] * 3,
        assets,
    )
    order = np.lexsort((numbers[:, 3], numbers[:, 2], numbers[:, 0]))
    numbers, amounts = numbers[order], amounts[order]
    how_many = len(positions.users)
    held = np.zeros((2, how_many, 2), np.uint64)
    for column in (0, 1):
        held[column][numbers[:, 0]] = amounts[:, 5 + column]
    lots = np.flatnonzero(numbers[:, 2] >= 0)
    place = numbers[lots, 0]
    summed = np.zeros((2, how_many, 2), np.uint64)
    for column in (0, 1):
        copy_rows.add_up(place, np.ascontiguousarray(amounts[lots, 9 + column]), summed[column])
    off = (summed != held).any(axis=(0, 2)) & (positions.assets != assets.currency)
    if off.any():
        at = int(np.flatnonzero(off)[0])
        raise GateError(
            f"user {positions.users[at]}: lots of {symbols[positions.assets[at]]} carried into {day} do not sum to the"
            " position that they are of",
            rule="a position is the sum of its lots, in quantity and in cost",
            next_step="docs/runbooks/quantity_identity.md",
        )
    return Opening(
        quantity=held[0],
        cost=held[1],
        lot_position=place,
        lot_seq=numbers[lots, 2],
        lot_no=numbers[lots, 3],
        lot_day=numbers[lots, 4],
        lots=np.ascontiguousarray(amounts[lots, 7:11]),
    )


def write_day(
    connection: psycopg.Connection, day: date, version: int, booked: BookedDay, positions: Positions, assets: Assets
) -> str:
    """Write lots and gains; returns the hex digest over both."""
    texts = "".join(assets.symbols).encode("ascii")
    lengths = np.cumsum([0, *map(len, assets.symbols)])
    longest = max(map(len, assets.symbols))
    names = (lengths.astype(np.int64), np.frombuffer(texts, np.uint8), assets.decimals, assets.currency_decimals)
    scratch = (np.zeros(LIMBS, np.uint64), np.zeros(GROUPS, np.int64))
    days = day_number(day) - EPOCH_DAYS
    out = np.empty(len(booked.lot_keys) * (_PLAIN_BYTES + longest + 4 * _LONGEST_NUMERIC), np.uint8)
    end = copy_rows.put_lots(out, days, version, booked.lot_keys, booked.lots, *names, *scratch)
    digest = hashlib.sha256(_write(connection, f"positions.lots ({_LOT_COLUMNS})", out[:end]))
    columns = len(IS_VALUE)
    out = np.empty(len(positions.users) * (_PLAIN_BYTES + longest + columns * _LONGEST_NUMERIC), np.uint8)
    end = copy_rows.put_gains(
        out, days, version, positions.users, positions.assets, booked.gains, IS_VALUE, *names, *scratch
    )
    target = f"positions.realized_pnl (close_date, version, user_id, asset, {GAIN_COLUMNS})"
    digest.update(_write(connection, target, out[:end]))
    return digest.hexdigest()


def write_unrealized(connection: psycopg.Connection, day: date, epoch: int) -> int:
    """Value what is held at the closing marks; returns how many positions."""
    row = connection.execute("SELECT positions.write_unrealized_pnl(%s, %s)", (day, epoch)).fetchone()
    assert row is not None
    return int(row[0])


def marks_digest(connection: psycopg.Connection, day: date, version: int) -> str:
    """Digest over the closing marks that positions are valued at."""
    row = connection.execute(
        "SELECT close.table_digest(array_agg(close.row_hash(asset, trim_scale(price)::text))) FROM market.mark_prices"
        " WHERE close_date = %s AND version = %s",
        (day, version),
    ).fetchone()
    assert row is not None
    return str(row[0])


def totals(connection: psycopg.Connection, day: date, version: int, table: str, columns: Sequence[str]) -> list[Any]:
    """How many rows a day has in a table of positions, and sums of some of its columns."""
    sums = ", ".join(f"coalesce(sum({column}), 0)" for column in columns)
    row = connection.execute(
        f"SELECT count(*), {sums} FROM positions.{table} WHERE close_date = %s AND version = %s".encode(),
        (day, version),
    ).fetchone()
    assert row is not None
    return list(row)


def _write(connection: psycopg.Connection, target: str, rows: Array) -> bytes:
    """Copy rows into a table; returns the SHA-256 over them."""
    digest = hashlib.sha256(rows.data)
    with connection.cursor().copy(f"COPY {target} FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.write(HEADER)
        for at in range(0, len(rows), _BLOCK):
            copy.write(rows[at : at + _BLOCK].tobytes())
        copy.write(TRAILER)
    return digest.digest()


def _read(
    connection: psycopg.Connection,
    query: str,
    parameters: Sequence[object],
    kinds: Sequence[int],
    scale: Sequence[int],
    assets: Assets,
) -> tuple[Array, Array, Array]:
    """The rows of a query: integers, magnitudes of amounts in smallest units, and which of them are negative."""
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode(), parameters) as copy:
        data = np.frombuffer(b"".join(copy), np.uint8)
    rows = copy_rows.count_rows(data)
    shape = (rows, len(kinds))
    numbers, amounts = np.zeros(shape, np.int64), np.zeros((*shape, 2), np.uint64)
    negative = np.zeros(shape, bool)
    bad = copy_rows.read_rows(
        data, np.array(kinds, np.int64), np.array(scale, np.int64), assets.decimals, numbers, amounts, negative
    )
    if bad >= 0:
        raise GateError(
            f"row {bad} of the day's events has an amount that its asset cannot have: {numbers[bad].tolist()}",
            rule="amounts are whole smallest units, below 2^127",
            next_step="compare exchange.assets with the engine's journal",
        )
    return numbers, amounts, negative
