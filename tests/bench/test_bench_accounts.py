"""Figures of accounts: transitions a second, opening many at once, verifying a long history; each beside its floor."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest

from engine.store import accounts
from engine.store.account_history import verify_history
from engine.store.connect import connect
from tests.fixtures.accounts import superuser
from tests.fixtures.books import BookUnderTest

pytestmark = pytest.mark.bench
REPEATS = 5
_FILL = """
    INSERT INTO accounts.account_state_transitions (user_id, version, from_state, to_state, authority, actor,
        second_approver, reason, at, recorded_at, prev_hash, row_hash)
    SELECT t.user_id, t.version, t.from_state, t.to_state, t.authority, t.actor, t.second_approver, t.reason, t.at,
        t.recorded_at, t.prev_hash, accounts.transition_hash(t)
    FROM (SELECT u.user_id, p.row_hash AS prev FROM accounts.users u
          LEFT JOIN accounts.account_state_transitions p ON p.user_id = u.user_id AND p.version = %(v)s - 1
          WHERE u.user_id > 50000000) x
    CROSS JOIN LATERAL (SELECT (ROW(0::bigint, x.user_id, %(from)s::text, %(to)s::text, 'ann'::text, %(by)s::text,
        'a reason of some length, as people write them'::text, now(), x.prev, NULL::bytea, %(v)s::bigint,
        'bea'::text, now())::accounts.account_state_transitions).*) t"""
"""One more row in every chain, in bulk."""


def rate(work: Callable[[int], None], connections: int, each: int) -> float:
    """How many a second, so many connections at once."""
    threads = [threading.Thread(target=work, args=(n,)) for n in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return connections * each / (time.perf_counter() - started)


@pytest.mark.parametrize("connections", [1, 8])
def test_transitions_a_second(lifecycle: BookUnderTest, connections: int) -> None:
    each, rates, floors = 400 // connections, [], []
    with lifecycle.admin() as owner:
        owner.execute("CREATE TABLE IF NOT EXISTS public.floor (n bigint, at timestamptz DEFAULT clock_timestamp())")
        owner.execute("GRANT INSERT ON public.floor TO compline_app")
        owner.execute("GRANT USAGE ON SCHEMA public TO compline_app")

    def floor(worker: int) -> None:
        with connect(lifecycle.opened.url, autocommit=True) as app:
            for number in range(each):
                app.execute("INSERT INTO public.floor (n) VALUES (%s)", (number,))

    for repeat in range(REPEATS):
        base = 10_000_000 + connections * 1_000_000 + repeat * 10_000
        with lifecycle.app() as app:
            app.execute(
                "INSERT INTO accounts.users (user_id, account)"
                " SELECT n, 'b-' || n FROM generate_series(%s::bigint, %s) n",
                (base, base + connections * each),
            )

        def work(worker: int, base: int = base) -> None:
            with connect(lifecycle.opened.url, autocommit=True) as app:
                for number in range(each):
                    user = base + worker * each + number
                    accounts.transition(app, user, "suspended", authority="operator", actor="ann", reason="bench")

        floors.append(rate(floor, connections, each))
        rates.append(rate(work, connections, each))
    print(
        f"\ntransitions/s on {connections} connection(s): median {statistics.median(rates):,.0f} of {REPEATS}"
        f" ({min(rates):,.0f} to {max(rates):,.0f}); one-row commits/s: {statistics.median(floors):,.0f};"
        f" ratio {statistics.median(rates) / statistics.median(floors):.2f}"
    )


def test_opening_a_hundred_thousand_accounts(lifecycle: BookUnderTest) -> None:
    count = 100_000
    with lifecycle.app() as app:
        started = time.perf_counter()
        app.execute(
            "INSERT INTO accounts.users (user_id, account)"
            " SELECT n, 'o-' || n FROM generate_series(30000000, 30000000 + %s) n",
            (count - 1,),
        )
        took = time.perf_counter() - started
    with superuser(lifecycle) as root, root.transaction(force_rollback=True):
        root.execute("SET LOCAL session_replication_role = replica")
        started = time.perf_counter()
        root.execute(
            "INSERT INTO accounts.users (user_id, account)"
            " SELECT n, 'p-' || n FROM generate_series(40000000, 40000000 + %s) n",
            (count - 1,),
        )
        floor = time.perf_counter() - started
    print(f"\n{count:,} accounts with their first history rows: {took:.2f} s; without triggers: {floor:.2f} s")


def test_verifying_a_million_rows(lifecycle: BookUnderTest) -> None:
    rows = 1_000_000
    chain = 5
    with superuser(lifecycle) as root:
        root.execute("SET session_replication_role = replica")
        root.execute(
            "INSERT INTO accounts.users (user_id, account, state, version)"
            " SELECT 50000000 + n, 'v-' || n, 'active', 1 FROM generate_series(1, %s) n",
            (rows // chain,),
        )
        states = ("active", "suspended", "restricted", "suspended", "restricted")
        for version in range(1, chain + 1):
            root.execute(
                _FILL,
                {
                    "v": version,
                    "from": states[version - 2] if version > 1 else "none",
                    "to": states[version - 1],
                    "by": "opening" if version == 1 else "compliance",
                },
            )
        root.execute(
            "UPDATE accounts.users SET version = %s, state = %s WHERE user_id > 50000000", (chain, states[chain - 1])
        )
        root.execute("SET session_replication_role = origin")
        root.execute("VACUUM ANALYZE accounts.account_state_transitions, accounts.users")
    took, cpu = [], []
    for _ in range(3):
        with lifecycle.app() as app:
            started, worked = time.perf_counter(), time.process_time()
            found = verify_history(app)
            took.append(time.perf_counter() - started)
            cpu.append(time.process_time() - worked)
    with lifecycle.app() as app:
        started = time.perf_counter()
        with app.cursor() as cursor, cursor.copy("COPY accounts.account_state_transitions TO STDOUT") as copy:
            for _ in copy:
                pass
        floor = time.perf_counter() - started
    print(
        f"\nverify-history of {found.rows:,} rows in {found.users:,} chains: median {statistics.median(took):.2f} s"
        f" ({statistics.median(cpu):.2f} s of Python); bare COPY of the table: {floor:.2f} s;"
        f" ratio {statistics.median(took) / floor:.1f}"
    )
