"""How fast the day's commitment is: the kernel against the hashing floor, a build from rows to roots, a peer beside."""

from __future__ import annotations

import platform
import resource
import statistics
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pymerkle import InmemoryTree

from engine.reserves.arena_builder import Timings
from engine.reserves.build import TreeKernel, build_trees
from engine.reserves.kernels import leaves as leaf_kernels
from engine.reserves.kernels import nodes as node_kernels
from engine.reserves.kernels.sha256 import block_address, hash_blocks, new_scratch
from engine.reserves.keys import KeyRing, derive_demo_keys
from engine.reserves.tree import TreePolicy
from engine.store import trees
from tests.bench.test_bench_engine import Say, cpu
from tests.fixtures.books import BookUnderTest, MakeBook

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

DAY = date(2026, 3, 2)
HEIGHT = 20
RUNS = 5
USERS = 1_000_000
ASSETS = (("BTC", 1, 8), ("ETH", 2, 18), ("USDT", 3, 6))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def line(text: str) -> None:
        with capsys.disabled():
            print(text)

    line(f"\n{cpu()}, Python {platform.python_version()}")
    return line


def test_tree_of_a_million_leaves_costs_at_most_three_times_its_hashing(say: Say) -> None:
    """CPU time of one thread, floor and tree in turn; a leaf is three blocks: its own and its share of the nodes."""
    count = 1 << HEIGHT
    block, scratch = block_address(), new_scratch()
    words = scratch.view(np.uint32)
    random_numbers = np.random.default_rng(1)
    live = random_numbers.integers(0, 255, (count, 48), dtype=np.uint8)
    live[:, 32:38] = 0
    order = random_numbers.permutation(count)
    nodes, positions = np.zeros((2 * count - 1, 48), np.uint8), np.zeros(count, np.uint64)
    pad = np.zeros(16, np.uint32)
    floors, subjects = [], []
    for _ in range(RUNS + 1):
        started = time.process_time()
        hash_blocks(block, scratch, words, 3 * count)
        floors.append(time.process_time() - started)
        started = time.process_time()
        leaf_kernels.place(block, scratch, words, pad, order, live, 0, positions, nodes)
        start, width = 0, count
        for level in range(1, HEIGHT + 1):
            children = nodes[start : start + width]
            start, width = start + width, width // 2
            node_kernels.parents(block, scratch, words, level, children, nodes[start : start + width], 0, width)
        subjects.append(time.process_time() - started)
    floor, subject = statistics.median(floors[1:]), statistics.median(subjects[1:])
    say(
        f"2^{HEIGHT} leaves: floor {floor:.3f} s, placed and hashed to the root {subject:.3f} s: {subject / floor:.2f}x"
    )
    assert subject <= 3 * floor


def test_plain_tree_beside_pymerkle(say: Say) -> None:
    """The tree that pymerkle can build (no sums, no keys), 2^16 leaves: it takes minutes for 2^20."""
    from engine.reserves.merkle import merkle_root

    data = [n.to_bytes(49, "big") for n in range(1 << 16)]
    started = time.process_time()
    peer = InmemoryTree()
    for one in data:
        peer.append_entry(one)
    root = peer.get_root()
    theirs = time.process_time() - started
    started = time.process_time()
    ours = merkle_root(data)
    plain = time.process_time() - started
    assert root == ours
    say(f"2^16 plain leaves: pymerkle {theirs:.3f} s, merkle.py {plain:.3f} s; of 2^20, sixteen times as much")


class Sampler:
    """The process's anonymous memory, looked at every 20 ms: mapped files are the system's to keep or drop."""

    def __init__(self) -> None:
        self._most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.02):
            text = Path("/proc/self/status").read_text()
            self._most = max(self._most, int(text.split("RssAnon:")[1].split()[0]))

    def stop(self) -> float:
        """The most that was seen, in MB."""
        self._done.set()
        self._thread.join()
        return self._most / 1024


def fill(book: BookUnderTest, users: int) -> dict[str, int]:
    with book.admin() as owner:
        for asset, number, decimals in ASSETS:
            owner.execute("INSERT INTO exchange.assets VALUES (%s, %s, %s)", (asset, number, decimals))
        owner.execute(
            "INSERT INTO close.user_balance_snapshots SELECT %s, 1, 'user-' || lpad(n::text, 9, '0'), a.asset, x, 0,"
            " 0, 0, x, 1, x, sha256('x') FROM generate_series(1, %s) n CROSS JOIN exchange.assets a"
            " CROSS JOIN LATERAL (SELECT trunc(mod(n::bigint * 7919, 1000003) * 1.000000007, a.decimals) AS x) v",
            (DAY, users),
        )
        owner.execute("ANALYZE close.user_balance_snapshots")
        rows = owner.execute(
            "SELECT asset, trunc(sum(total * scale))::text FROM close.user_balance_snapshots"
            " JOIN exchange.assets USING (asset) GROUP BY asset"
        ).fetchall()
    return {str(asset): int(total) for asset, total in rows}


def test_whole_build_from_rows_to_roots(say: Say, make_book: MakeBook, tmp_path: Path) -> None:
    book = make_book(None)
    totals = fill(book, USERS)
    ring = KeyRing(derive_demo_keys(5).reserve, "test.example")
    policy = TreePolicy(chunks=2)
    with book.app() as app:
        held = trees.held_assets(app)
        build_trees(
            tmp_path / "warm",
            [b"a\t1\t1\n"],
            held,
            holdings=1,
            control_totals={"BTC": 1},
            ctx=bytes(32),
            ring=ring,
            policy=policy,
            kernel=TreeKernel.LIBCRYPTO,
        )
        started = time.perf_counter()
        size = sum(len(piece) for piece in trees.holdings(app, DAY, 1))
        read = time.perf_counter() - started
        timings = Timings()
        sampled = Sampler()
        cpu_started, started = time.process_time(), time.perf_counter()
        built = build_trees(
            tmp_path / "trees",
            trees.holdings(app, DAY, 1),
            held,
            holdings=3 * USERS,
            control_totals=totals,
            ctx=bytes(32),
            ring=ring,
            policy=policy,
            timings=timings,
        )
        wall, cpu_time = time.perf_counter() - started, time.process_time() - cpu_started
    assert {one.entry.asset: one.entry.total for one in built} == totals
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in timings.seconds.items())
    own = sampled.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(
        f"{USERS:,} users x {len(ASSETS)} assets, height {built[0].entry.height}: {wall:.2f} s ({cpu_time:.2f} s CPU):"
        f" reading alone {read:.2f} ({size / 1e6:.0f} MB), {parts}; memory of its own at most {own:.0f} MB,"
        f" with the mapped files' pages {peak:.0f} MB"
    )
