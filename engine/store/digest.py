"""The state digest: what a book says after all, whatever was killed, repeated or raced on the way.

What belongs here: the canonical digest of balances, net postings, verdicts, breaks and trees: the oracle of kill tests.
What does not: ids, attempts, epochs, timings, run ids and error rows; they may differ between equal histories.
"""

from __future__ import annotations

import hashlib

import psycopg

from engine.canonical import row_bytes

_PARTS: dict[str, str] = {
    "days": "SELECT close_date, version, state, barrier_seq, books_sha256 FROM close.days",
    "balances": "SELECT account, asset, trim_scale(balance) FROM ledger.accounts WHERE balance <> 0",
    "daily_balances": "SELECT b.close_date, b.version, a.account, a.asset, trim_scale(b.balance)"
    " FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)",
    "postings": "SELECT j.kind, CASE WHEN j.origin = 'close' THEN regexp_replace(j.reference_id, ':[0-9]+$', '')"
    " ELSE j.reference_id END, close_date, a.account, a.asset, trim_scale(sum(e.amount))"
    " FROM ledger.journals j JOIN ledger.ledger_entries e USING (posting_no, close_date)"
    " JOIN ledger.accounts a USING (account_id) GROUP BY 1, 2, 3, 4, 5",
    "marks": "SELECT close_date, version, asset, trim_scale(price), source, close.iso_us(at) FROM market.mark_prices",
    "snapshots": "SELECT close_date, version, account, asset, encode(row_hash, 'hex')"
    " FROM close.user_balance_snapshots",
    "volumes": "SELECT close_date, version, user_id, trim_scale(day_volume), trim_scale(volume), tier"
    " FROM positions.volume_30d",
    "stakes": "SELECT close_date, version, user_id, asset, trim_scale(closing), stake_unit_us"
    " FROM positions.staking_positions",
    "rewards": "SELECT close_date, version, user_id, asset, trim_scale(amount) FROM ledger.reward_accruals",
    "tiers": "SELECT user_id, tier FROM positions.user_tiers",
    "opening_lots": "SELECT user_id, asset, lot_no, acquired_on, trim_scale(quantity), trim_scale(cost)"
    " FROM positions.opening_lots",
    "opening_volumes": "SELECT user_id, close_date, trim_scale(volume) FROM positions.opening_volumes",
    "lots": "SELECT close_date, version, user_id, asset, lot_seq, lot_no, acquired_on, trim_scale(acquired_quantity),"
    " trim_scale(acquired_cost), trim_scale(quantity), trim_scale(cost) FROM positions.lots",
    "realized": "SELECT close_date, version, user_id, asset, trim_scale(realized), trim_scale(trading_pnl),"
    " trim_scale(fees_value), trim_scale(quantity), trim_scale(cost) FROM positions.realized_pnl",
    "unrealized": "SELECT close_date, version, user_id, asset, trim_scale(quantity), trim_scale(cost),"
    " trim_scale(mark), trim_scale(value), lots_date, lots_version FROM positions.unrealized_pnl",
    "wallets": "SELECT close_date, version, wallet, asset, trim_scale(balance) FROM custody.wallet_balances",
    "transfers": "SELECT close_date, version, wallet, asset, transfer, reference, trim_scale(amount), trim_scale(fee),"
    " confirmed FROM custody.transfers",
    "in_transit": "SELECT close_date, version, asset, reference, trim_scale(custody_amount), trim_scale(ledger_amount),"
    " since, pending, ordered FROM custody.in_transit",
    "chain": "SELECT close_date, version, contract, asset, trim_scale(total), block_height, block_hash"
    " FROM chain.staking_totals",
    "unread": "SELECT close_date, version, source, subject FROM custody.unread",
    "verdicts": "SELECT v.close_date, v.version, v.gate, v.scope, v.verdict FROM recon.verdicts v"
    " JOIN close.days y USING (close_date, version, books_sha256)",
    "breaks": "SELECT gate, subject, asset, first_date, last_date, trim_scale(difference), state FROM recon.breaks",
    "corrections": "SELECT b.gate, b.subject, b.asset, c.side, trim_scale(c.amount), c.counter FROM recon.corrections c"
    " JOIN recon.breaks b USING (break_id)",
    "waivers": "SELECT gate, scope, close_date, asset, trim_scale(amount_cap), maker, checker FROM recon.waivers",
    "tolerances": "SELECT gate, asset, trim_scale(absolute), bps, maker, approver FROM recon.tolerances",
    "accounts": "SELECT user_id, account, state, version FROM accounts.users",
    "holds": "SELECT user_id, kind, released_at IS NULL, count(*) FROM accounts.holds GROUP BY 1, 2, 3",
    "adjustments": "SELECT adjustment_id, decision, payload_sha256 FROM accounts.adjustment_decisions",
    "screening": "SELECT close_date, user_id, list, entry, matched, score FROM accounts.screening_hits",
    "trees": "SELECT close_date, version, asset, height, root, trim_scale(total) FROM reserves.liability_trees",
    "attestations": "SELECT close_date, version, asset, chain, address, trim_scale(amount), block_height, block_hash,"
    " ownership FROM reserves.attestations",
    "requests": "SELECT kind, payload::text, outcome FROM exchange.command_requests",
    "fee_tiers": "SELECT close_date, tier, maker_rate_ppm, taker_rate_ppm FROM exchange.fee_tiers",
    "user_tiers": "SELECT close_date, user_id, tier FROM exchange.user_tiers",
    "log": "SELECT log_index, encode(leaf_hash, 'hex') FROM reserves.log_entries",
}


def parts(connection: psycopg.Connection) -> dict[str, str]:
    """Hex digest of every part of a book's state, to see which of them differ."""
    found = {}
    for name, query in _PARTS.items():
        lines = sorted(
            row_bytes(None if v is None else str(v) for v in row) for row in connection.execute(query.encode())
        )
        found[name] = hashlib.sha256(b"".join(lines)).hexdigest()
    return found


def state_digest(connection: psycopg.Connection) -> str:
    """Hex SHA-256 over the digests of all parts."""
    return hashlib.sha256(row_bytes(digest for _, digest in sorted(parts(connection).items()))).hexdigest()
