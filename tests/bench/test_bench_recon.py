"""How long engine and ledger take to be compared, beside the bare FULL JOIN of the same rows; what a marker costs live.

Seconds are wall time of one backend on an otherwise quiet machine, and its CPU. The floor joins two tables of account,
asset and amount, no more, with the same memory and as many workers.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.books import MakeBook
from tests.fixtures.histories import FIRST, leased, write_world

pytestmark = pytest.mark.bench

ASSETS = ("USDT", "BTC", "ETH", "SOL", "ADA")
PAIRS = tuple(int(n) for n in os.environ.get("COMPLINE_BENCH_PAIRS", "1000000,5000000").split(","))
RUNS = 3
FLOOR = (
    "SELECT count(*) FROM finance.bare_ledger l FULL JOIN finance.bare_engine e USING (account, asset)"
    " WHERE l.amount IS DISTINCT FROM e.amount"
)


def cpu(owner: psycopg.Connection) -> float:
    fields = Path(f"/proc/{owner.info.backend_pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(owner: psycopg.Connection, statement: str, *args: object, runs: int = RUNS) -> tuple[float, float, object]:
    """Median wall and CPU seconds of a statement, and the value it gave last."""
    walls, cpus, row = [], [], None
    for _ in range(runs):
        before, started = cpu(owner), time.perf_counter()
        row = owner.execute(statement.encode(), args or None).fetchone()
        walls.append(time.perf_counter() - started)
        cpus.append(cpu(owner) - before)
    assert row is not None
    return statistics.median(walls), statistics.median(cpus), row[0]


def write_sides(owner: psycopg.Connection, pairs: int) -> None:
    """So many balances, in the ledger at the cut-off and now, and in the engine at the barrier."""
    users = pairs // len(ASSETS)
    write_world(owner, users=users, days=1)
    owner.execute("INSERT INTO exchange.assets (asset, engine_id, decimals) VALUES ('SOL', 4, 9), ('ADA', 5, 6)")
    for table in ("ledger.accounts", "ledger.daily_balances", "exchange.engine_balances"):
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
    owner.execute(
        "INSERT INTO ledger.accounts (account, user_id, asset, liability_class, balance)"
        " SELECT u.account, u.user_id, s.asset, 'customer', 1000 + u.user_id * 0.000123 + s.engine_id"
        " FROM accounts.users u CROSS JOIN exchange.assets s"
    )
    owner.execute(
        "INSERT INTO ledger.daily_balances (close_date, version, account_id, balance)"
        " SELECT %s, 1, account_id, balance FROM ledger.accounts",
        (FIRST,),
    )
    owner.execute(
        "INSERT INTO exchange.engine_balances (close_date, version, account, asset, available, locked, staked,"
        " in_transit) SELECT %s, 1, account, asset, balance - 1, 1, 0, 0 FROM ledger.accounts",
        (FIRST,),
    )
    owner.execute("CREATE TABLE finance.bare_ledger AS SELECT account, asset, balance AS amount FROM ledger.accounts")
    owner.execute("CREATE TABLE finance.bare_engine AS SELECT account, asset, balance AS amount FROM ledger.accounts")
    owner.execute("UPDATE close.days SET books_sha256 = repeat('a', 64) WHERE close_date = %s", (FIRST,))
    for table in ("ledger.accounts", "ledger.daily_balances", "exchange.engine_balances"):
        owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
    owner.execute(
        "VACUUM ANALYZE ledger.accounts, ledger.daily_balances, exchange.engine_balances, accounts.users,"
        " finance.bare_ledger, finance.bare_engine"
    )


@pytest.mark.parametrize("pairs", PAIRS)
def test_engine_vs_ledger_beside_a_bare_full_join(
    make_book: MakeBook, capsys: pytest.CaptureFixture[str], pairs: int
) -> None:
    book = make_book(None)
    with book.admin() as owner:
        write_sides(owner, pairs)
        line = measured(owner, pairs)
    with capsys.disabled():
        print("\n" + line)


def measured(owner: psycopg.Connection, pairs: int) -> str:
    """The gate, its verdict with breaks, and one that fails, each beside the bare join."""
    owner.execute("SET work_mem = '256MB'")
    owner.execute("SET max_parallel_workers_per_gather = 0")
    floor, floor_cpu, _ = timed(owner, FLOOR)
    gate, gate_cpu, verdict = timed(owner, "SELECT verdict FROM recon.gate_engine_vs_ledger(%s, 1)", FIRST)
    assert verdict == "pass"
    judging = "SELECT recon.judge(%s, 'engine_vs_ledger', %s)"
    # As the step does: in anything less the gate is not judged.
    owner.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with leased(owner, [FIRST]) as epochs, owner.transaction():
        judge, judge_cpu, said = timed(owner, judging, FIRST, epochs[FIRST])
        assert said == "pass"
        owner.execute("ALTER TABLE exchange.engine_balances DISABLE TRIGGER USER")
        owner.execute("UPDATE exchange.engine_balances SET available = available + 0.000001 WHERE account = 'u-77'")
        owner.execute("ALTER TABLE exchange.engine_balances ENABLE TRIGGER USER")
        failed, failed_cpu, said = timed(owner, judging, FIRST, epochs[FIRST], runs=1)
        assert said == "fail"
    again, _, _ = timed(owner, FLOOR)
    base = (floor + again) / 2
    return (
        f"engine against ledger, {pairs:,} pairs: bare FULL JOIN {floor:.2f} s (again {again:.2f}, CPU"
        f" {floor_cpu:.2f});"
        f" the gate {gate:.2f} s ({gate / base:.1f}x; CPU {gate_cpu:.2f}); verdict and breaks {judge:.2f} s"
        f" ({judge / base:.1f}x; CPU {judge_cpu:.2f}); with {len(ASSETS)} breaks and a freeze {failed:.2f} s"
        f" ({failed / base:.1f}x; CPU {failed_cpu:.2f})"
    )
