"""Captures of a day: the engine's balances at the barrier and the closing marks.

What belongs here: replacing and reading those rows.
What does not: where they come from (see `engine.steps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import psycopg

from engine.canonical import row_hash, table_digest
from engine.clock import iso_us
from engine.money import text_of
from engine.store.postings import amount_text, copy_rows

HOUSE_FEES = "house:fees"
"""The row of `exchange.engine_balances` that holds the fees which the engine has collected."""
HOUSE_OWED = "house:owed"
"""The row that holds, negative, what users owe since deposits were reversed that they had spent."""


@dataclass(frozen=True, slots=True)
class EngineBalance:
    """One account's holding of one asset at the barrier, in smallest units."""

    account: str
    asset: str
    decimals: int
    available: int
    locked: int
    staked: int
    in_transit: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A closing mark: the price of one asset in the reporting currency, where it is from and when it was."""

    asset: str
    price: Decimal
    source: str
    at: datetime


def replace_engine_balances(
    connection: psycopg.Connection, day: date, version: int, epoch: int, rows: Sequence[EngineBalance]
) -> str:
    """Write the engine's balances of a day; returns their digest as the books hash reads them."""
    connection.execute("SELECT close.replace_engine_balances(%s, %s)", (day, epoch))
    copy_rows(
        connection,
        "exchange.engine_balances (close_date, version, account, asset, available, locked, staked, in_transit)",
        (
            (
                day,
                version,
                row.account,
                row.asset,
                *(amount_text(v, row.decimals) for v in (row.available, row.locked, row.staked, row.in_transit)),
            )
            for row in rows
        ),
    )
    return table_digest(row_hash((r.account, r.asset, r.available, r.locked, r.staked, r.in_transit)) for r in rows)


def replace_mark_prices(
    connection: psycopg.Connection, day: date, version: int, epoch: int, marks: Sequence[Mark]
) -> str:
    """Write the closing marks of a day and their ticks; returns their digest as the books hash reads them."""
    connection.execute("SELECT close.replace_mark_prices(%s, %s)", (day, epoch))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO market.mark_ticks (asset, at, price, source) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [(m.asset, m.at, m.price, m.source) for m in marks],
        )
        cursor.executemany(
            "INSERT INTO market.mark_prices (close_date, version, asset, price, source, at)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [(day, version, m.asset, m.price, m.source, m.at) for m in marks],
        )
    return table_digest(row_hash((m.asset, text_of(m.price), m.source, iso_us(m.at))) for m in marks)


def decimals_of(connection: psycopg.Connection) -> dict[str, int]:
    """Decimals of every asset's smallest unit in the books."""
    rows = connection.execute("SELECT asset, decimals FROM exchange.assets")
    return {str(asset): int(decimals) for asset, decimals in rows}


def assets_held(connection: psycopg.Connection, day: date, version: int) -> list[str]:
    """Assets that anyone holds at the barrier, the house's fees included."""
    rows = connection.execute(
        "SELECT DISTINCT asset FROM exchange.engine_balances WHERE close_date = %s AND version = %s ORDER BY asset",
        (day, version),
    )
    return [str(row[0]) for row in rows]


def last_trades(
    connection: psycopg.Connection, currency: str, barrier_seq: int, cutoff_at: datetime
) -> dict[str, tuple[str, Decimal, datetime]]:
    """The last trade by exchange time, up to a barrier, of each market quoted in a currency.

    A print that arrived late is sequenced last and says nothing about the price at the cut-off.

    Returns:
        asset -> (market, price, exchange time).
    """
    rows = connection.execute(
        "SELECT m.base, m.market, t.price, t.effective_at FROM exchange.markets m"
        " CROSS JOIN LATERAL (SELECT price, effective_at FROM exchange.trades t WHERE t.market = m.market"
        " AND t.effective_at < %s AND t.engine_seq <= %s"
        " ORDER BY t.effective_at DESC, t.engine_seq DESC, t.fill_index DESC LIMIT 1) t WHERE m.quote = %s",
        (cutoff_at, barrier_seq, currency),
    )
    return {str(base): (str(market), price, at) for base, market, price, at in rows}
