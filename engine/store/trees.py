"""Trees of a day: what they are built from, and their entries.

What belongs here: snapshots and control totals in smallest units, and `reserves.liability_trees`.
What does not: building (see `engine.reserves`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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


def customer_totals(connection: psycopg.Connection, day: date, version: int) -> dict[str, list[tuple[str, int]]]:
    """Every customer's total by asset, from the day's snapshot: asset -> [(account, smallest units)]."""
    rows = connection.execute(
        "SELECT s.asset, s.account, s.total, a.decimals FROM close.user_balance_snapshots s"
        " JOIN exchange.assets a USING (asset) WHERE s.close_date = %s AND s.version = %s AND s.total <> 0",
        (day, version),
    )
    held: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for asset, account, total, decimals in rows:
        held[asset].append((account, to_units(total, decimals, record=f"{account} {asset}")))
    return dict(held)


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
    """House accounts that are owed to somebody, in smallest units."""
    rows = _balances(connection, day, version, "other_liability")
    return [OtherLiability(account, asset, units) for account, asset, units in rows]


def receivables(connection: psycopg.Connection, day: date, version: int) -> list[Receivable]:
    """What customers owe, gross by asset, in smallest units; never netted."""
    sums: defaultdict[str, int] = defaultdict(int)
    for _, asset, units in _balances(connection, day, version, "receivable"):
        sums[asset] -= units
    return [Receivable(asset, units) for asset, units in sorted(sums.items())]


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
