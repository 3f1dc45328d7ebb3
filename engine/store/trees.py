"""Trees of a day: what they are built from, and their entries.

What belongs here: snapshots and control totals in smallest units, and `reserves.liability_trees`.
What does not: building (see `engine.reserves`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from engine.money import to_units
from engine.reserves.entries import AssetEntry, OtherLiability, Receivable
from engine.reserves.header import Header
from engine.store.postings import amount_text


@dataclass(frozen=True, slots=True)
class TreeRow:
    """An asset's entry and how many accounts are in its tree."""

    entry: AssetEntry
    accounts: int


_LINES = 2000


def held_assets(connection: psycopg.Connection) -> dict[int, tuple[str, int]]:
    """The assets by the number that `holdings` gives them: number -> (asset, decimals)."""
    rows = connection.execute("SELECT engine_id, asset, decimals FROM exchange.assets")
    return {int(number): (str(asset), int(places)) for number, asset, places in rows}


def count_holdings(connection: psycopg.Connection, day: date, version: int) -> int:
    """How many rows the day's snapshot has."""
    row = connection.execute(
        "SELECT count(*) FROM close.user_balance_snapshots WHERE close_date = %s AND version = %s", (day, version)
    ).fetchone()
    assert row is not None
    return int(row[0])


def holdings(connection: psycopg.Connection, day: date, version: int) -> Iterator[bytes]:
    """Every customer's total from the day's snapshot, as trees are built from it.

    Many lines go into one row of the answer: a row of its own each would cost a microsecond in the driver.

    Returns:
        Text of `account TAB asset number TAB smallest units LF`, sorted by bytes of the account, then the number.
    """
    query = (
        "SELECT string_agg(line, '' ORDER BY n) FROM (SELECT s.account || E'\\t' || a.engine_id || E'\\t' ||"
        " trunc(s.total * a.scale) || E'\\n' AS line,"
        ' row_number() OVER (ORDER BY s.account COLLATE "C", a.engine_id) AS n'
        " FROM close.user_balance_snapshots s JOIN exchange.assets a USING (asset)"
        f" WHERE s.close_date = %s AND s.version = %s) x GROUP BY n / {_LINES} ORDER BY n / {_LINES}"
    )
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode(), (day, version)) as copy,
    ):
        copy.set_types(["text"])
        for row in copy.rows():
            yield str(row[0]).encode("ascii")


def control_totals(connection: psycopg.Connection, day: date, version: int) -> dict[str, tuple[int, int]]:
    """The ledger's total of class customer by asset: asset -> (decimals, smallest units), zero left out."""
    rows = connection.execute(
        "SELECT t.asset, a.decimals, t.closing FROM ledger.control_totals t JOIN exchange.assets a USING (asset)"
        " WHERE t.close_date = %s AND t.version = %s AND t.liability_class = 'customer' AND t.closing <> 0",
        (day, version),
    )
    return {asset: (places, to_units(total, places, record=f"control total {asset}")) for asset, places, total in rows}


def replace_trees(connection: psycopg.Connection, header: Header, epoch: int, rows: Sequence[TreeRow]) -> None:
    """Write the entries of a day in place of those that were there."""
    day = date.fromisoformat(header.close_date)
    connection.execute("SELECT reserves.replace_liability_trees(%s, %s)", (day, epoch))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO reserves.liability_trees (close_date, version, asset, books_sha256, log_seq, ctx, height,"
            " root, total, accounts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::numeric, %s)",
            [
                (
                    day,
                    header.version,
                    row.entry.asset,
                    header.books_sha256,
                    header.seq,
                    header.ctx.hex(),
                    row.entry.height,
                    row.entry.root,
                    amount_text(row.entry.total, row.entry.decimals),
                    row.accounts,
                )
                for row in rows
            ],
        )


def read_entries(connection: psycopg.Connection, header: Header) -> list[AssetEntry]:
    """The entries built for a header, by asset; none where they were built for another."""
    rows = connection.execute(
        "SELECT t.asset, a.decimals, t.height, t.root, t.total FROM reserves.liability_trees t"
        " JOIN exchange.assets a USING (asset) WHERE t.close_date = %s AND t.version = %s AND t.ctx = %s"
        ' ORDER BY t.asset COLLATE "C"',
        (date.fromisoformat(header.close_date), header.version, header.ctx.hex()),
    )
    return [
        AssetEntry(asset, places, height, root, to_units(total, places, record=f"tree {asset}"))
        for asset, places, height, root, total in rows
    ]


def other_liabilities(connection: psycopg.Connection, day: date, version: int) -> list[OtherLiability]:
    """House accounts that are owed to somebody, in smallest units; a debit balance is no debt and is left out."""
    rows = _balances(connection, day, version, "other_liability")
    return [OtherLiability(account, asset, units) for account, asset, units in rows if units > 0]


def receivables(connection: psycopg.Connection, day: date, version: int) -> list[Receivable]:
    """What customers owe, gross by asset, in smallest units; never netted."""
    sums: defaultdict[str, int] = defaultdict(int)
    for _, asset, units in _balances(connection, day, version, "receivable"):
        sums[asset] += max(-units, 0)
    return [Receivable(asset, units) for asset, units in sorted(sums.items()) if units]


def _balances(
    connection: psycopg.Connection, day: date, version: int, liability_class: str
) -> list[tuple[str, str, int]]:
    rows = connection.execute(
        "SELECT a.account, a.asset, b.balance, s.decimals FROM ledger.daily_balances b"
        " JOIN ledger.accounts a USING (account_id) JOIN exchange.assets s ON s.asset = a.asset"
        " WHERE b.close_date = %s AND b.version = %s AND a.liability_class = %s",
        (day, version, liability_class),
    )
    return [(account, asset, to_units(balance, places, record=account)) for account, asset, balance, places in rows]
