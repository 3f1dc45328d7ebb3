"""What the captured readings of custody and chain must look like, as Great Expectations suites.

What belongs here: the tables that a close writes from stored readings, where a policy names wallets or contracts.
What does not: the suites of every book (see `gx_suites`), and running them (see `gx_run`).

No amount is given to Great Expectations: what is said of amounts is said in SQL.
"""

from __future__ import annotations

from datetime import date

from checks.gx_suites import Capture, Rule, not_null, unique

WALLET = r"^[a-z0-9][a-z0-9_-]{0,31}$"
ADDRESS = r"^0x[0-9a-f]{40}$"
BLOCK = r"^0x[0-9a-f]{64}$"
MOST_LINES = 2_500_000
"""No wallet's list is read further than 10,000 pages of 250."""


def outside_captures(day: date, version: int) -> tuple[Capture, ...]:
    """The tables of custody and chain of a day and what they must look like.

    Args:
        day: close date.
        version: of the day.
    """
    d, v = f"date '{day}'", int(version)
    return (_wallets(d, v), _transfers(d, v), _totals(d, v))


def _named(d: str, field: str) -> str:
    """The policy's rows of wallets or contracts, as JSON."""
    return f"SELECT w FROM close.policy_on({d}) p, jsonb_array_elements(coalesce(p.policy -> '{field}', '[]')) w"


def _count(d: str, v: int, field: str, source: str) -> str:
    """What is named and was not marked as unread is there."""
    there = (
        f"(SELECT count(*) FROM ({_named(d, field)}) n) - (SELECT count(*) FROM custody.unread"
        f" WHERE close_date = {d} AND version = {v} AND source = '{source}')"
    )
    return f"SELECT {there}, {there}"


def _of_its_reading(subject: str, shown: str, d: str) -> tuple[Rule, ...]:
    return (
        Rule(
            "its reading is of the same source and date",
            f"SELECT {shown}, reading_id::text AS reading_id FROM (SELECT * FROM {{batch}}) b WHERE NOT EXISTS (SELECT"
            f" FROM capture.readings r WHERE r.reading_id = b.reading_id AND r.subject = {subject} || '@' || {d})",
        ),
        Rule(
            "its reading was taken at or after the cut-off",
            f"SELECT {shown}, reading_id::text AS reading_id FROM (SELECT * FROM {{batch}}) b JOIN capture.readings r"
            f" USING (reading_id) WHERE r.at < (SELECT cutoff_at FROM close.days WHERE close_date = {d})",
        ),
    )


def _wallets(d: str, v: int) -> Capture:
    return Capture(
        table="custody.wallet_balances",
        rows="SELECT wallet, asset, balance, reading_id FROM custody.wallet_balances"
        f" WHERE close_date = {d} AND version = {v}",
        key=("wallet", "asset"),
        count=_count(d, v, "custody_wallets", "custody"),
        expectations=lambda e: [
            *not_null(e, "wallet", "asset", "balance", "reading_id"),
            e.ExpectColumnValuesToMatchRegex(column="wallet", regex=WALLET),
        ],
        rules=(
            unique("wallet", "asset"),
            Rule(
                "the policy names the wallet",
                "SELECT wallet, asset FROM (SELECT * FROM {batch}) b WHERE NOT EXISTS (SELECT FROM"
                f" ({_named(d, 'custody_wallets')}) n WHERE n.w ->> 0 = b.wallet AND n.w ->> 1 = b.asset)",
            ),
            *_of_its_reading("b.wallet || '/' || b.asset", "wallet, asset", d),
        ),
    )


def _transfers(d: str, v: int) -> Capture:
    shown = "wallet, asset, transfer, reference"
    return Capture(
        table="custody.transfers",
        rows=f"SELECT {shown}, amount, fee, confirmed, at, reading_id FROM custody.transfers"
        f" WHERE close_date = {d} AND version = {v}",
        key=("wallet", "asset", "transfer"),
        count=f"SELECT 0, {MOST_LINES} * count(*) FROM ({_named(d, 'custody_wallets')}) n",
        expectations=lambda e: [
            *not_null(e, "wallet", "transfer", "reference", "amount", "fee", "at"),
            e.ExpectColumnValuesToBeInSet(column="confirmed", value_set=[True, False]),
        ],
        rules=(
            unique("wallet", "asset", "transfer"),
            Rule(
                "it is of a wallet that was read, by the same reading",
                f"SELECT {shown} FROM (SELECT * FROM {{batch}}) b WHERE NOT EXISTS (SELECT FROM custody.wallet_balances"
                f" w WHERE w.close_date = {d} AND w.version = {v} AND w.wallet = b.wallet AND w.asset = b.asset"
                " AND w.reading_id = b.reading_id)",
            ),
            Rule(
                "a confirmed line was confirmed before the cut-off",
                f"SELECT {shown}, at::text AS at FROM {{batch}} WHERE confirmed AND at >="
                f" (SELECT cutoff_at FROM close.days WHERE close_date = {d})",
            ),
            Rule(
                "a fee is paid, and taken back only with its line",
                f"SELECT {shown}, fee::text AS fee FROM {{batch}} WHERE fee < 0 AND transfer NOT LIKE '%~removed'",
            ),
            Rule(
                "a line that was taken back was there on an earlier date",
                f"SELECT {shown} FROM (SELECT * FROM {{batch}}) b WHERE transfer LIKE '%~removed' AND NOT EXISTS"
                " (SELECT FROM custody.transfers t WHERE t.wallet = b.wallet AND t.asset = b.asset AND t.confirmed"
                f" AND t.close_date < {d} AND t.transfer || '~removed' = b.transfer AND t.amount = -b.amount)",
            ),
        ),
    )


def _totals(d: str, v: int) -> Capture:
    return Capture(
        table="chain.staking_totals",
        rows="SELECT contract, asset, total, block_height, block_hash, reading_id FROM chain.staking_totals"
        f" WHERE close_date = {d} AND version = {v}",
        key=("contract",),
        count=_count(d, v, "staking_contracts", "chain"),
        expectations=lambda e: [
            e.ExpectColumnValuesToBeUnique(column="contract"),
            *not_null(e, "asset", "total", "block_height", "block_hash", "reading_id"),
            e.ExpectColumnValuesToMatchRegex(column="contract", regex=ADDRESS),
            e.ExpectColumnValuesToMatchRegex(column="block_hash", regex=BLOCK),
        ],
        rules=(
            Rule(
                "the policy names the contract and its asset",
                "SELECT contract, asset FROM (SELECT * FROM {batch}) b WHERE NOT EXISTS (SELECT FROM"
                f" ({_named(d, 'staking_contracts')}) n WHERE n.w ->> 0 = b.contract AND n.w ->> 1 = b.asset)",
            ),
            Rule(
                "a total and its block's height are not negative",
                "SELECT contract, total::text AS total, block_height::text AS block_height FROM {batch}"
                " WHERE total < 0 OR block_height < 0",
            ),
            *_of_its_reading("b.contract", "contract", d),
        ),
    )
