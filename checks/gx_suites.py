"""What the captured inputs of a day must look like, as Great Expectations suites.

What belongs here: the tables, the rows of a day, and the expectations on them.
What does not: running them (see `gx_run`). Importing Great Expectations costs seconds: inside functions only.

Great Expectations compares numbers through float: no amount is given to it. What is said of amounts is said in SQL, and
only whether rows were found comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import great_expectations as gx

SOURCE = r"^[a-z][a-z0-9_]*(:[!-~]+)?$"
"""`reporting_currency`, `last_trade:XRPETH`: a kind of source, and which one."""


@dataclass(frozen=True)
class Rule:
    """Rows that must not be there.

    Attributes:
        name: what holds when there are none.
        query: finds them; the batch stands in braces; keys and amounts as text.
    """

    name: str
    query: str


@dataclass(frozen=True)
class Capture:
    """One captured table of a day.

    Attributes:
        table: schema and name.
        rows: the rows of a day, as a query with its date and version put in.
        key: columns that identify a row, shown where it fails.
        count: a query for how many rows there must be: least and most.
        expectations: on columns, made by what Great Expectations offers.
        rules: in SQL.
    """

    table: str
    rows: str
    key: tuple[str, ...]
    count: str
    expectations: Callable[[Any], list[gx.expectations.Expectation]]
    rules: tuple[Rule, ...]


def captures(day: date, version: int) -> tuple[Capture, ...]:
    """The captured tables of a day and what they must look like.

    Args:
        day: close date.
        version: of the day.
    """
    d, v = f"date '{day}'", int(version)
    return (_trades(d), _engine_balances(d, v), _mark_prices(d, v), _snapshots(d, v))


def _trades(d: str) -> Capture:
    return Capture(
        table="exchange.trades",
        rows="SELECT trade_id, posting_no, engine_seq, fill_index, market, taker_side, maker_id, taker_id,"
        f" effective_at, price, quantity, quote_quantity FROM exchange.trades WHERE close_date = {d}",
        key=("trade_id",),
        count=f"SELECT count(*), count(*) FROM ledger.journals WHERE close_date = {d} AND kind = 'trade'",
        expectations=lambda e: [
            e.ExpectColumnValuesToBeUnique(column="trade_id"),
            *not_null(e, "posting_no", "market", "taker_side", "maker_id", "taker_id", "effective_at"),
            e.ExpectColumnValuesToBeInSet(column="taker_side", value_set=["buy", "sell"]),
        ],
        rules=(
            unique("engine_seq", "fill_index"),
            Rule(
                "the market is known",
                "SELECT trade_id::text AS trade_id, market FROM {batch}"
                " WHERE market NOT IN (SELECT market FROM exchange.markets)",
            ),
            Rule(
                "both sides are users",
                "SELECT trade_id::text AS trade_id, maker_id::text AS maker_id, taker_id::text AS taker_id"
                " FROM (SELECT * FROM {batch}) t LEFT JOIN accounts.users m ON m.user_id = maker_id"
                " LEFT JOIN accounts.users k ON k.user_id = taker_id WHERE m.user_id IS NULL OR k.user_id IS NULL",
            ),
            Rule(
                "price and quantities are positive",
                "SELECT trade_id::text AS trade_id, price::text AS price, quantity::text AS quantity FROM {batch}"
                " WHERE price <= 0 OR quantity <= 0 OR quote_quantity <= 0",
            ),
            Rule(
                "it was sequenced before the barrier",
                "SELECT trade_id::text AS trade_id, engine_seq::text AS engine_seq FROM {batch}"
                f" WHERE engine_seq > (SELECT barrier_seq FROM close.days WHERE close_date = {d})",
            ),
        ),
    )


def _engine_balances(d: str, v: int) -> Capture:
    return Capture(
        table="exchange.engine_balances",
        rows="SELECT account, asset, available, locked, staked, in_transit FROM exchange.engine_balances"
        f" WHERE close_date = {d} AND version = {v}",
        key=("account", "asset"),
        count=f"SELECT (SELECT count(*) FROM close.user_balance_snapshots WHERE close_date = {d} AND version = {v}),"
        " (SELECT count(*) + 2 FROM accounts.users) * (SELECT count(*) FROM exchange.assets)",
        expectations=lambda e: [
            *not_null(e, "account", "asset", "available", "locked", "staked", "in_transit"),
        ],
        rules=(
            unique("account", "asset"),
            Rule(
                "the account is a user's, the house's fees or what users owe",
                "SELECT account, asset FROM (SELECT * FROM {batch}) b WHERE account NOT IN ('house:fees', 'house:owed')"
                " AND NOT EXISTS (SELECT FROM accounts.users u WHERE u.account = b.account)",
            ),
            Rule(
                "the asset is known",
                "SELECT account, asset FROM {batch} WHERE asset NOT IN (SELECT asset FROM exchange.assets)",
            ),
            Rule(
                "no user's balance is negative",
                "SELECT account, asset, available::text AS available, locked::text AS locked FROM {batch}"
                " WHERE account NOT IN ('house:fees', 'house:owed')"
                " AND least(available, locked, staked, in_transit) < 0",
            ),
            Rule(
                "amounts are whole smallest units",
                "SELECT account, asset, available::text AS available, locked::text AS locked FROM {batch}"
                " NATURAL JOIN (SELECT asset, decimals FROM exchange.assets) s"
                " WHERE (available, locked, staked, in_transit) IS DISTINCT FROM (trunc(available, decimals),"
                " trunc(locked, decimals), trunc(staked, decimals), trunc(in_transit, decimals))",
            ),
        ),
    )


def _mark_prices(d: str, v: int) -> Capture:
    held = f"SELECT asset FROM exchange.engine_balances WHERE close_date = {d} AND version = {v}"
    return Capture(
        table="market.mark_prices",
        rows=f"SELECT asset, price, source, at FROM market.mark_prices WHERE close_date = {d} AND version = {v}",
        key=("asset",),
        count=f"SELECT (SELECT count(DISTINCT asset) FROM ({held}) h), (SELECT count(*) FROM exchange.assets)",
        expectations=lambda e: [
            e.ExpectColumnValuesToBeUnique(column="asset"),
            *not_null(e, "asset", "price", "source", "at"),
            e.ExpectColumnValuesToMatchRegex(column="source", regex=SOURCE),
        ],
        rules=(
            Rule(
                "the asset is known",
                "SELECT asset, source FROM {batch} WHERE asset NOT IN (SELECT asset FROM exchange.assets)",
            ),
            Rule(
                "every asset held has a mark",
                f"SELECT DISTINCT asset FROM ({held}) h WHERE asset NOT IN (SELECT asset FROM {{batch}})",
            ),
            Rule(
                "a price is positive",
                "SELECT asset, source, price::text AS price FROM {batch} WHERE price <= 0 OR price = 'NaN'",
            ),
            Rule(
                "a mark is not from after the cut-off",
                "SELECT asset, source, at::text AS at FROM {batch}"
                f" WHERE at > (SELECT cutoff_at FROM close.days WHERE close_date = {d})",
            ),
        ),
    )


def _snapshots(d: str, v: int) -> Capture:
    # Where engine and ledger agree these are the engine's balances too; where they do not, a gate says so by user.
    users = (
        "SELECT u.account, a.asset, sum(x.balance) AS owed FROM ledger.daily_balances x JOIN ledger.accounts a"
        " USING (account_id) JOIN accounts.users u ON u.user_id = a.user_id WHERE a.liability_class = 'customer'"
        f" AND x.close_date = {d} AND x.version = {v} GROUP BY 1, 2 HAVING sum(x.balance) <> 0"
    )
    return Capture(
        table="close.user_balance_snapshots",
        rows="SELECT account, asset, available, locked, staked, in_transit, total, mark, value, row_hash"
        f" FROM close.user_balance_snapshots WHERE close_date = {d} AND version = {v}",
        key=("account", "asset"),
        count=f"SELECT count(*), count(*) FROM ({users}) u",
        expectations=lambda e: [
            *not_null(e, "account", "asset", "total", "mark", "value", "row_hash"),
        ],
        rules=(
            unique("account", "asset"),
            Rule(
                "it holds what the ledger owes",
                f"SELECT account, asset, total::text AS total FROM (SELECT * FROM {{batch}}) b LEFT JOIN ({users}) u"
                " USING (account, asset) WHERE b.total IS DISTINCT FROM u.owed",
            ),
            Rule(
                "the total is the sum of its parts",
                "SELECT account, asset, total::text AS total FROM {batch}"
                " WHERE total <> available + locked + staked + in_transit",
            ),
            Rule(
                "it is marked at the captured mark",
                "SELECT account, asset, mark::text AS mark FROM (SELECT * FROM {batch}) b WHERE NOT EXISTS (SELECT"
                " FROM market.mark_prices p WHERE p.asset = b.asset AND p.price = b.mark"
                f" AND p.close_date = {d} AND p.version = {v})",
            ),
        ),
    )


def unique(*columns: str) -> Rule:
    """Columns that together name one row; Great Expectations' own query for it compares every row with every other."""
    shown = ", ".join(f"{column}::text AS {column}" for column in columns)
    together = ", ".join(columns)
    return Rule(
        f"{' and '.join(columns)} together are unique",
        f"SELECT {shown}, count(*)::text AS rows FROM {{batch}} GROUP BY {together} HAVING count(*) > 1",
    )


def not_null(expectations: Any, *columns: str) -> list[Any]:
    """Columns that must be filled, one expectation each."""
    return [expectations.ExpectColumnValuesToNotBeNull(column=column) for column in columns]
