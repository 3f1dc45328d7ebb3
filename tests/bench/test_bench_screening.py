"""Screening a million users against a list of the size of OFAC's: a whole run, a day's run, a new version of the list.

The floor is reading the names out of Postgres and writing them normal; the peer compares everything by rapidfuzz's own
matrices, on a sample, and is scaled up.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rapidfuzz import fuzz, process

from engine.clock import now
from engine.screening.lists import ListSpec, read_list
from engine.screening.matcher import NameIndex
from engine.screening.names import normal
from engine.steps.screening import Screened, list_at, screen_all
from engine.store import screening
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.screening import HOUSE, Names, screening_policy, store_list

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
USERS = int(os.environ.get("COMPLINE_BENCH_USERS", "1000000"))
NAMES, ADDRESSES = 17_000, 700


def fill(book: BookUnderTest, made: Names, first: int, count: int) -> None:
    """Users with a name and an address each."""
    with book.admin() as owner, owner.transaction():
        owner.execute(
            "INSERT INTO accounts.users (user_id, account) SELECT n, 'bench-' || n FROM generate_series(%s, %s) n",
            (first, first + count - 1),
        )
        with owner.cursor() as cursor:
            with cursor.copy("COPY accounts.identities (user_id, full_name, recorded_by) FROM STDIN") as copy:
                for number in range(first, first + count):
                    copy.write_row((number, made.person(), "bench"))
            with cursor.copy("COPY accounts.addresses (user_id, chain, address, recorded_by) FROM STDIN") as copy:
                for number in range(first, first + count):
                    copy.write_row((number, "ethereum", made.address(), "bench"))
    with book.admin() as owner:
        owner.execute("ANALYZE accounts.identities, accounts.addresses, accounts.users")


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the clock and of this process, and what the work gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    gave = work()
    return time.perf_counter() - wall, time.process_time() - cpu, gave


def test_screening_of_a_million_users(
    make_book: MakeBook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spent: dict[str, float] = defaultdict(float)

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += time.perf_counter() - started

        return run

    # Names of the list come from words of their own: two pools in common would make every fortieth user a hit.
    made, others = Names(5), Names(6)
    raw = others.list_of(NAMES, ADDRESSES)
    entries = read_list(ListSpec.parse(HOUSE), raw).entries
    listed = [normal(name) for entry in entries for name in entry.names]
    book = make_book(policy=screening_policy())
    fill(book, made, 1_000, USERS)
    NameIndex(listed[:9], 88).matches(listed[:9])

    def floor() -> int:
        with book.app(autocommit=False) as connection:
            return sum(len([normal(text) for text in texts]) for _, _, texts in screening.names(connection, None, None))

    def run() -> Screened:
        with book.app(autocommit=False) as connection:
            spec = ListSpec.parse(HOUSE)
            reading, found = list_at(connection, spec, now(), 86_400)
            done = screen_all(connection, spec, reading, found, 88, None)
            connection.commit()
        return done

    lines = []
    floors = [timed(floor)[:2]]
    monkeypatch.setattr(NameIndex, "matches", counted("matching", NameIndex.matches))
    monkeypatch.setattr(screening, "take_hits", counted("acting on hits", screening.take_hits))
    for what, change in (
        ("whole run", lambda: store_list(book, raw, at=now())),
        ("nothing new", lambda: None),
        ("10,000 new users", lambda: fill(book, made, 1_000 + USERS, 10_000)),
        ("50 new entries", lambda: store_list(book, raw + b"\n" + extra(others, 50), at=now())),
    ):
        change()
        spent.clear()
        wall, cpu, done = timed(run)
        parts = ", ".join(f"{name} {s:.1f} s ({s / wall:.0%})" for name, s in spent.items())
        took = f"{wall:.1f} s, {cpu:.1f} s of this process"
        lines.append(f"{what}: {took}; {done.compared:,} names, {len(done.hits):,} new hits; {parts}")
    floors.append(timed(floor)[:2])
    sample = [normal(made.person()) for _ in range(1_000)]
    _, cpu, _ = timed(lambda: brute(sample, listed))
    lines.append(f"floor, names read and written normal: {floors[0][0]:.1f} and {floors[1][0]:.1f} s")
    lines.append(
        f"peer, everything compared by rapidfuzz on 1,000 users: {cpu:.1f} s of this process, so"
        f" {cpu * USERS / 1000:,.0f} s for all"
    )
    with capsys.disabled():
        print(f"\nscreening {USERS:,} users, {NAMES:,} names, {ADDRESSES} addresses\n  " + "\n  ".join(lines))


def extra(made: Names, count: int) -> bytes:
    """Lines of new entries."""
    return "\n".join(f"new-{n}\tname\t{made.person()}" for n in range(count)).encode()


def brute(names: list[str], entries: list[str]) -> int:
    """Pairs at the threshold by the library's matrices for two of the three scores."""
    plain = process.cdist(names, entries, scorer=fuzz.token_sort_ratio, dtype=np.float64)
    by_words = process.cdist(names, entries, scorer=fuzz.token_set_ratio, dtype=np.float64)
    return int((np.maximum(plain, by_words) >= 88).sum())
