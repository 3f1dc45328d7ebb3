"""Fees of a day: what trades charged, what was swept, and the accrual rows.

What belongs here: those three queries.
What does not: posting the sweep (see `engine.steps.fee_accruals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg

from engine.money import text_of, to_units
from engine.store.postings import copy_rows


@dataclass(frozen=True, slots=True)
class FeeLine:
    """Fees of one user in one asset and role; negative for net rebates."""

    user_id: int
    account: str
    asset: str
    decimals: int
    role: str
    amount: Decimal
    trades: int


def charged(connection: psycopg.Connection, day: date) -> list[FeeLine]:
    """What the trades of a close date charged, by user, asset and role."""
    rows = connection.execute(
        "SELECT u.user_id, u.account, m.quote, s.decimals, x.role, sum(x.fee), count(*)"
        " FROM exchange.trades t JOIN exchange.markets m USING (market) JOIN exchange.assets s ON s.asset = m.quote"
        " CROSS JOIN LATERAL (VALUES ('maker', t.maker_id, t.maker_fee), ('taker', t.taker_id, t.taker_fee))"
        " x (role, user_id, fee) JOIN accounts.users u ON u.user_id = x.user_id"
        " WHERE t.close_date = %s GROUP BY 1, 2, 3, 4, 5 ORDER BY 2, 3, 5",
        (day,),
    )
    return [FeeLine(*row) for row in rows]


def booked(connection: psycopg.Connection, day: date) -> tuple[dict[tuple[str, str, str], tuple[int, int]], int]:
    """What was swept for a close date before.

    Returns:
        (account, asset, role) -> (smallest units, decimals), and the number of sweeps so far.
    """
    rows = connection.execute(
        "SELECT split_part(j.reference_id, ':', 2), e.asset, split_part(j.reference_id, ':', -2), sum(e.amount),"
        " s.decimals, max(split_part(j.reference_id, ':', -1)::integer)"
        " FROM ledger.journals j JOIN ledger.ledger_entries e ON e.posting_no = j.posting_no AND e.close_date = %(d)s"
        " JOIN ledger.accounts a USING (account_id) JOIN exchange.assets s ON s.asset = e.asset"
        " WHERE j.close_date = %(d)s AND j.kind = 'fee_accrual' AND a.account = 'fee_income' GROUP BY 1, 2, 3, 5",
        {"d": day},
    ).fetchall()
    swept = {(r[0], r[1], r[2]): (to_units(r[3], r[4], record="sweep"), int(r[4])) for r in rows}
    return swept, max((int(r[5]) for r in rows), default=0)


def replace_fee_accruals(
    connection: psycopg.Connection, day: date, version: int, epoch: int, lines: Sequence[FeeLine]
) -> None:
    """Write the accrual rows of a day in place of those that were there."""
    connection.execute("SELECT ledger.replace_fee_accruals(%s, %s)", (day, epoch))
    copy_rows(
        connection,
        "ledger.fee_accruals (close_date, version, user_id, asset, role, amount, trades)",
        ((day, version, x.user_id, x.asset, x.role, text_of(x.amount), x.trades) for x in lines),
    )
