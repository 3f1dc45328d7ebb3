"""How fast a day's fees are swept, volumes and tiers written, rewards shared and prices found, beside their floors.

Seconds are CPU of the one backend. A floor is the same rows written by one INSERT … SELECT into tables with the same
keys and nothing else.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.clock import day_number
from engine.close.policy import Policy
from engine.exchange.events import TiersSet
from engine.store import command_requests
from tests.fixtures.books import MakeBook
from tests.fixtures.histories import FIRST, leased, write_world

pytestmark = pytest.mark.bench

USERS, TRADES, TRADERS = 1_000_000, 1_000_000, 100_000
DAY = FIRST + timedelta(days=30)
TIERS = (("0", 200, 1000), ("100000", 100, 900), ("1000000", 50, 800), ("5000000", 0, 700), ("25000000", -50, 600))


def cpu(owner: psycopg.Connection) -> float:
    """CPU seconds of the connection's backend so far: wall time says little on a shared machine."""
    fields = Path(f"/proc/{owner.info.backend_pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(owner: psycopg.Connection, statement: str, *args: object) -> tuple[float, Any]:
    """CPU seconds of a statement, and its first row."""
    before = cpu(owner)
    row = owner.execute(statement.encode(), args or None).fetchone()
    return cpu(owner) - before, row


def floor_of(owner: psycopg.Connection, *copies: tuple[str, str, str]) -> float:
    """CPU seconds to write (table, key, query of the same rows) into bare tables."""
    spent = 0.0
    for table, key, query in copies:
        owner.execute(f"CREATE TABLE {table} AS SELECT * FROM ({query}) x LIMIT 0".encode())
        if key:
            owner.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({key})".encode())
        before = cpu(owner)
        owner.execute(f"INSERT INTO {table} {query}".encode())
        spent += cpu(owner) - before
        owner.execute(f"DROP TABLE {table}".encode())
    return spent


def big_day(owner: psycopg.Connection) -> None:
    """A million trades of 100,000 users on one day, an eighth of them quoted in BTC."""
    owner.execute("ALTER TABLE exchange.trades DISABLE TRIGGER USER")
    owner.execute(
        "INSERT INTO exchange.trades SELECT n, n, n, 0, %(d)s::date, t, t,"
        " CASE WHEN n %% 8 = 7 THEN 'ETH-BTC' ELSE 'BTC-USDT' END, 60000 + n %% 977, 1, 1 + n %% 1009,"
        " 'buy', 1 + (n * 7919) %% %(u)s, 1 + (n * 104729 + 1) %% %(u)s, n, n, 0.000123, 0.001234, 200, 1000"
        " FROM generate_series(1::bigint, %(n)s) n CROSS JOIN LATERAL (SELECT %(d)s::date::timestamp AT TIME ZONE 'UTC'"
        " + n * interval '86 milliseconds' AS t) x",
        {"d": DAY, "u": TRADERS, "n": TRADES},
    )
    owner.execute("ALTER TABLE exchange.trades ENABLE TRIGGER USER")
    owner.execute("ANALYZE exchange.trades")


def test_figures(make_book: MakeBook, capsys: pytest.CaptureFixture[str]) -> None:
    policy = Policy("USDT", mark_max_age_s=86_400, fee_tiers=TIERS)
    book = make_book(None, policy)
    lines = []
    with book.admin() as owner:
        write_world(owner, users=USERS, days=31)
        owner.execute("SELECT ledger.ensure_partition(%s)", (DAY,))
        big_day(owner)
        for back, amount in ((1, "n * 30"), (30, "n")):
            owner.execute(
                "INSERT INTO positions.volume_30d (close_date, version, user_id, day_volume, volume)"
                f" SELECT %s, 1, n, n %% 977, n %% 977 + {amount} FROM generate_series(1, %s) n".encode(),
                (DAY - timedelta(days=back), USERS),
            )
        owner.execute("ANALYZE positions.volume_30d, accounts.users")
        with leased(owner, [DAY]) as epochs:
            volumes, _ = timed(owner, "SELECT positions.write_volume_30d(%s, %s)", DAY, epochs[DAY])
            asked, row = timed(owner, "SELECT rates, users FROM positions.ask_for_tiers(%s, %s)", DAY, epochs[DAY])
            again, none = timed(owner, "SELECT rates, users FROM positions.ask_for_tiers(%s, %s)", DAY, epochs[DAY])
            assert none == (0, 0)
            written = "SELECT close_date, version, user_id, day_volume, volume, tier FROM positions.volume_30d"
            floor = floor_of(
                owner, ("finance.bare", "close_date, version, user_id", f"{written} WHERE close_date = '{DAY}'")
            )
            lines.append(
                f"30-day volume of {USERS:,} users with {TRADES:,} trades of the day: {volumes:.2f} s,"
                f" floor {floor:.2f} s ({volumes / floor:.1f}x); tiers asked for {row[1]:,} users: {asked:.2f} s,"
                f" none again: {again:.2f} s"
            )
            with book.app(autocommit=False) as app:
                moves = app.execute(
                    "SELECT tier, array_agg(user_id) FROM exchange.tier_batch_users GROUP BY 1 ORDER BY 1"
                ).fetchall()
                found = tuple((int(tier), tuple(users)) for tier, users in moves)
                before = cpu(app)
                event = TiersSet(TRADES + 9, day_number(DAY), 0, ((0, 1, 2),), found)
                command_requests.settle_commands(app, [event])
                settled = cpu(app) - before
                app.commit()
            rows = "SELECT * FROM exchange.user_tiers"
            floor = floor_of(owner, ("finance.bare_t", "engine_seq, user_id", rows))
            lines.append(f"their batch settled: {settled:.2f} s, floor {floor:.2f} s ({settled / floor:.1f}x)")
            swept, done = timed(
                owner, "SELECT rows, journals FROM ledger.sweep_fees(%s, %s, 'bench')", DAY, epochs[DAY]
            )
            repeat, nothing = timed(
                owner, "SELECT rows, journals FROM ledger.sweep_fees(%s, %s, 'bench')", DAY, epochs[DAY]
            )
            assert nothing[1] == 0
            floor = floor_of(
                owner,
                ("finance.bare_f", "close_date, version, user_id, asset, role", "SELECT * FROM ledger.fee_accruals"),
                ("finance.bare_j", "posting_no", "SELECT * FROM ledger.journals"),
                ("finance.bare_e", "", f"SELECT * FROM ledger.ledger_entries WHERE close_date = '{DAY}'"),
            )
            lines.append(
                f"fees of {TRADES:,} trades swept in {done[1]:,} journals: {swept:.2f} s, floor {floor:.2f} s"
                f" ({swept / floor:.1f}x); nothing again: {repeat:.2f} s"
            )
        gate, _ = timed(owner, "SELECT verdict FROM recon.gate_fee_clearing_swept(%s, 1)", DAY)
        lines.append(f"its gate, per user and role: {gate:.2f} s")
        marks, _ = timed(
            owner,
            "SELECT count(market.mark_at('BTC', effective_at, engine_seq)) FROM exchange.trades"
            " WHERE trade_id <= 100000",
        )
        lines.append(f"price at an event: {marks / 100_000 * 1e6:.1f} us")
        for pot in (0, 1, 10**24):
            spent, row = timed(
                owner,
                "SELECT count(*) FILTER (WHERE share > 0), sum(share) FROM (SELECT array_agg(n) AS ids,"
                " array_agg((n %% 1000 + 1) * 10::numeric ^ 18 * 86400000000) AS weights"
                " FROM generate_series(1, %s) n) w, positions.pro_rata(%s, w.ids, w.weights)",
                USERS,
                pot,
            )
            assert row[1] == pot
            lines.append(f"a pot of {pot} units over {USERS:,} stakers: {spent:.2f} s, {row[0]:,} get a share")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
