"""Rows of a sealed version as evidence: what its seal saw, the same whenever it is read.

What belongs here: reading them, JSON-ready: amounts as text of smallest units, instants in UTC.
What does not: which files they become (see `engine.steps.evidence_packs`).
"""

from __future__ import annotations

from datetime import date
from typing import Any

import psycopg

from engine.clock import iso_us
from engine.money import text_of, to_units
from engine.store.attestations import SOURCE
from engine.store.seals import Seal

Rows = list[dict[str, Any]]

_READ = (
    "SELECT reading_id FROM custody.wallet_balances WHERE close_date = %(d)s AND version = %(v)s"
    " UNION SELECT reading_id FROM chain.staking_totals WHERE close_date = %(d)s AND version = %(v)s"
    " UNION SELECT reading_id FROM market.index_constituents WHERE close_date = %(d)s AND version = %(v)s"
)
"""The readings that `close.books_digests` digests; a pack whose digests are not the seal's is never written."""


def gates(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The required gates as the seal saw them, by gate and scope."""
    rows = connection.execute(
        "SELECT gate, scope, verdict, waiver, detail FROM close.seal_gates WHERE close_date = %s AND version = %s"
        ' ORDER BY gate COLLATE "C", scope COLLATE "C"',
        (seal.close_date, seal.version),
    )
    return [{"gate": g, "scope": s, "verdict": v, "waiver": w, "detail": d} for g, s, v, w, d in rows]


def breaks(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The breaks that were open, and those that the verdicts are about."""
    rows = connection.execute(
        "SELECT break_id, gate, subject, asset, first_date, expected, actual, difference, state, reason_code"
        " FROM close.seal_breaks WHERE close_date = %s AND version = %s ORDER BY break_id",
        (seal.close_date, seal.version),
    )
    return [
        {
            "break": number,
            "gate": gate,
            "subject": subject,
            "asset": asset,
            "first_date": str(first),
            "expected": text_of(expected),
            "actual": text_of(actual),
            "difference": text_of(difference),
            "state": state,
            "reason": reason,
        }
        for number, gate, subject, asset, first, expected, actual, difference, state, reason in rows
    ]


def waivers(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The waivers of the date that had been given."""
    rows = connection.execute(
        "SELECT waiver_id, gate, scope, asset, amount_cap, reason, maker, checker, expires_at FROM recon.waivers"
        " WHERE close_date = %s AND at <= %s ORDER BY waiver_id",
        (seal.close_date, seal.sealed_at),
    )
    return [
        {
            "waiver": number,
            "gate": gate,
            "scope": scope,
            "asset": asset,
            "amount_cap": text_of(cap),
            "reason": reason,
            "maker": maker,
            "checker": checker,
            "expires_at": iso_us(expires),
        }
        for number, gate, scope, asset, cap, reason, maker, checker, expires in rows
    ]


def marks(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The closing marks with their sources."""
    rows = connection.execute(
        "SELECT asset, price, source, at FROM market.mark_prices WHERE close_date = %s AND version = %s"
        ' ORDER BY asset COLLATE "C"',
        (seal.close_date, seal.version),
    )
    return [{"asset": a, "price": text_of(p), "source": s, "at": iso_us(at)} for a, p, s, at in rows]


def readings(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The captured readings that are in the books hash."""
    rows = connection.execute(
        f"SELECT source, subject, at, sha256 FROM capture.readings WHERE reading_id IN ({_READ})"
        ' ORDER BY source COLLATE "C", subject COLLATE "C", at',
        {"d": seal.close_date, "v": seal.version},
    )
    return [{"source": source, "subject": subject, "at": iso_us(at), "sha256": h} for source, subject, at, h in rows]


def attestations(connection: psycopg.Connection, seal: Seal) -> tuple[Rows, dict[str, bytes]]:
    """Attested addresses with what was read and why it may not count, and the captured documents by SHA-256."""
    rows = connection.execute(
        "SELECT t.asset, t.chain, t.address, t.amount, t.stated, t.block_height, t.block_hash, t.ownership, t.reason,"
        " a.decimals, ARRAY(SELECT r.sha256 FROM unnest(t.readings) WITH ORDINALITY u (id, n)"
        " JOIN capture.readings r ON r.reading_id = u.id ORDER BY u.n) FROM reserves.attestations t"
        " JOIN exchange.assets a USING (asset) WHERE t.close_date = %s AND t.version = %s"
        ' ORDER BY t.asset COLLATE "C", t.chain COLLATE "C", t.address COLLATE "C"',
        (seal.close_date, seal.version),
    ).fetchall()
    listed = [
        {
            "asset": asset,
            "chain": chain,
            "address": address,
            "amount": str(to_units(amount, places, record=address)),
            "stated": None if stated is None else str(to_units(stated, places, record=address)),
            "height": height,
            "block_hash": block_hash,
            "ownership": ownership,
            "not_counted": reason,
            "documents": used,
        }
        for asset, chain, address, amount, stated, height, block_hash, ownership, reason, places, used in rows
    ]
    wanted = sorted({one for row in listed for one in row["documents"]})
    found = connection.execute(
        "SELECT sha256, raw FROM capture.readings WHERE source = %s AND sha256 = ANY(%s)", (SOURCE, wanted)
    )
    return listed, {str(digest): bytes(raw) for digest, raw in found}


def policy(connection: psycopg.Connection, sha256: str) -> dict[str, Any]:
    """The policy of a digest."""
    row = connection.execute("SELECT policy FROM close.policies WHERE policy_sha256 = %s LIMIT 1", (sha256,)).fetchone()
    assert row is not None
    return dict(row[0])


def control_totals(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The trial balance by class, smallest units; debits of accounts that are owed to others stand as house claims."""
    rows = connection.execute(
        "SELECT a.asset, CASE WHEN a.liability_class = 'other_liability' AND b.balance < 0 THEN 'house_claim'"
        " ELSE a.liability_class END AS class, trunc(sum(b.balance) * max(s.scale))::text"
        " FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)"
        " JOIN exchange.assets s ON s.asset = a.asset"
        " WHERE b.close_date = %s AND b.version = %s GROUP BY 1, 2 HAVING sum(b.balance) <> 0"
        ' ORDER BY a.asset COLLATE "C", 2',
        (seal.close_date, seal.version),
    )
    return [{"amount": units, "asset": asset, "liability_class": kind} for asset, kind, units in rows]


def house_balances(connection: psycopg.Connection, day: date, version: int) -> Rows:
    """Balances of accounts that are no customer's, in smallest units."""
    rows = connection.execute(
        "SELECT a.account, a.asset, trunc(b.balance * s.scale)::text FROM ledger.daily_balances b"
        " JOIN ledger.accounts a USING (account_id) JOIN exchange.assets s ON s.asset = a.asset"
        " WHERE b.close_date = %s AND b.version = %s AND a.liability_class NOT IN ('customer', 'affiliate')"
        ' ORDER BY a.account COLLATE "C", a.asset COLLATE "C"',
        (day, version),
    )
    return [{"account": account, "asset": asset, "amount": units} for account, asset, units in rows]


def close_journals(connection: psycopg.Connection, seal: Seal) -> Rows:
    """The date's journals that no engine event gives: the close's own and corrections, up to the seal's watermark."""
    rows = connection.execute(
        # Legs are read once for all: looked up journal by journal, each would read much of the day's partition.
        "WITH journals AS MATERIALIZED (SELECT * FROM ledger.journals WHERE close_date = %(d)s AND engine_seq IS NULL"
        " AND posting_no <= (SELECT posting_watermark FROM close.seals WHERE close_date = %(d)s AND version = %(v)s))"
        " SELECT j.kind, j.reference_type, j.reference_id, j.origin, j.effective_at, j.reason, l.legs FROM journals j"
        " LEFT JOIN (SELECT e.posting_no, jsonb_agg(jsonb_build_object('account', a.account, 'asset', e.asset,"
        " 'amount', trunc(e.amount * s.scale)::text)"
        ' ORDER BY a.account COLLATE "C", e.asset COLLATE "C", e.amount) AS legs'
        " FROM ledger.ledger_entries e JOIN ledger.accounts a USING (account_id)"
        " JOIN exchange.assets s ON s.asset = e.asset"
        " WHERE e.close_date = %(d)s AND e.posting_no IN (SELECT posting_no FROM journals) GROUP BY e.posting_no) l"
        " USING (posting_no) ORDER BY j.posting_no",
        {"d": seal.close_date, "v": seal.version},
    )
    return [
        {
            "kind": kind,
            "reference_type": reference_type,
            "reference_id": reference_id,
            "origin": origin,
            "effective_at": iso_us(at),
            "reason": reason,
            "legs": legs,
        }
        for kind, reference_type, reference_id, origin, at, reason, legs in rows
    ]


def opening_version(connection: psycopg.Connection, seal: Seal) -> int:
    """The version of the day before that a seal rests on: the newest one that was in the log before it."""
    row = connection.execute(
        "SELECT max(version) FROM close.seals WHERE close_date = %s::date - 1 AND coalesce(log_index, -1) < %s",
        (seal.close_date, seal.log_index),
    ).fetchone()
    assert row is not None
    return int(row[0])


_DIGESTS = {
    "journals": "SELECT j.row_hash AS h FROM ledger.journals j WHERE j.close_date = %(d)s AND j.posting_no <= %(w)s",
    "balances": "SELECT close.row_hash(a.account, a.asset, trunc(b.balance * s.scale)::text) AS h"
    " FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)"
    " JOIN exchange.assets s ON s.asset = a.asset"
    " WHERE b.close_date = %(d)s AND b.version = %(v)s",
    "marks": "SELECT close.row_hash(m.asset, trim_scale(m.price)::text, m.source, close.iso_us(m.at)) AS h"
    " FROM market.mark_prices m WHERE m.close_date = %(d)s AND m.version = %(v)s",
    "readings": "SELECT close.row_hash(r.source, r.subject, close.iso_us(r.at), r.sha256) AS h FROM capture.readings r"
    f" WHERE r.reading_id IN ({_READ})",
    "engine_balances": "SELECT close.row_hash(b.account, b.asset, trunc(b.available * s.scale)::text,"
    " trunc(b.locked * s.scale)::text, trunc(b.staked * s.scale)::text, trunc(b.in_transit * s.scale)::text) AS h"
    " FROM exchange.engine_balances b JOIN exchange.assets s ON s.asset = b.asset"
    " WHERE b.close_date = %(d)s AND b.version = %(v)s",
}


def books(connection: psycopg.Connection, seal: Seal) -> dict[str, dict[str, Any]]:
    """The tables that the books hash is made of, as of a seal: digest and rows of each."""
    watermark = connection.execute(
        "SELECT coalesce(posting_watermark, 0) FROM close.seals WHERE close_date = %s AND version = %s",
        (seal.close_date, seal.version),
    ).fetchone()
    assert watermark is not None
    given = {"d": seal.close_date, "v": seal.version, "w": watermark[0]}
    found = {}
    for name, query in _DIGESTS.items():
        row = connection.execute(
            "SELECT encode(sha256(coalesce(string_agg(h, ''::bytea ORDER BY h), ''::bytea)), 'hex'), count(*)"
            f" FROM ({query}) x".encode(),
            given,
        ).fetchone()
        assert row is not None
        found[name] = {"sha256": str(row[0]), "rows": int(row[1])}
    return found
