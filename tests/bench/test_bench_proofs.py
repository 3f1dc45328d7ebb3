"""Proofs of a day of 1 M leaves: compact paths, texts, sealed records; the verifier; the page at height 26.

Each beside a floor of the same run. `PROOFS_HEIGHT` makes the tree smaller where the machine is.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.reserves.arena import TreeArena, folder_of
from engine.reserves.build import TreeKernel, build_trees
from engine.reserves.kernels import records
from engine.reserves.kernels.sha256 import block_address, hash_blocks, new_scratch
from engine.reserves.keys import KeyRing, derive_demo_keys
from engine.reserves.proof import LogProof
from engine.reserves.shards import ShardWriter
from engine.reserves.tree import TreePolicy
from engine.reserves.verifier import compline_verify
from tests.fixtures.proof_files import VERIFIER, tall_proof

pytestmark = pytest.mark.bench
HEIGHT = int(os.environ.get("PROOFS_HEIGHT", "20"))
CTX, EXCHANGE = bytes(range(32)), "bench.example"


def _median(work: Callable[[], Any], rounds: int = 5, *, clock: Callable[[], float] = time.process_time) -> float:
    taken = []
    for _ in range(rounds):
        started = clock()
        work()
        taken.append(clock() - started)
    return statistics.median(taken)


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    return KeyRing(derive_demo_keys(3).reserve, EXCHANGE)


@pytest.fixture(scope="module")
def arenas(tmp_path_factory: pytest.TempPathFactory, ring: KeyRing) -> dict[str, TreeArena]:
    folder, accounts = tmp_path_factory.mktemp("trees"), 1 << (HEIGHT - 1)
    lines = [f"u-{n:07}\t{a}\t{10**9 + n * 7919 + a}\n" for n in range(accounts) for a in (1,)]
    total = sum(10**9 + n * 7919 + 1 for n in range(accounts))
    build_trees(
        folder,
        ["".join(lines).encode()],
        {1: ("BTC", 8)},
        holdings=accounts,
        control_totals={"BTC": total},
        ctx=CTX,
        ring=ring,
        policy=TreePolicy(2, (HEIGHT,)),
        kernel=TreeKernel.AUTO,
    )
    return {"BTC": TreeArena.open(folder_of(folder, "BTC"))}


def _writer(arenas: dict[str, TreeArena], ring: KeyRing, workers: int | None = None) -> ShardWriter:
    log = LogProof(0, 1, (), f"{EXCHANGE}/por\n1\n" + "A" * 44 + "\n\n— x y\n")
    return ShardWriter(
        arenas, ctx=CTX, ring=ring, signature="00" * 64, key_id="00" * 8, log=log, digits=3, workers=workers
    )


def test_paths_texts_and_records_a_second(
    arenas: dict[str, TreeArena], ring: KeyRing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arena, writer = arenas["BTC"], _writer(arenas, ring, 1)
    count = min(100_000, len(arena.positions))
    some = np.random.default_rng(1).permutation(arena.positions.astype(np.int64))[:count]
    paths = np.zeros((count, HEIGHT, 48), np.uint8)
    copy = np.zeros_like(paths)
    records.gather_paths(arena.nodes, HEIGHT, some[:10], paths)
    floor = _median(lambda: np.copyto(copy, paths))
    gathered = _median(lambda: records.gather_paths(arena.nodes, HEIGHT, some, paths))

    users = min(20_000, len(arena.names))
    names = np.ascontiguousarray(arena.names[:users]).view(np.uint8).reshape(-1, 64)
    plain, user = np.zeros((users, writer.record_bytes), np.uint8), np.zeros((users, 16), np.uint32)
    rows = np.arange(users)
    writer._texts(names[:10], user[:10], rows[:10], plain[:10])
    texts = _median(lambda: writer._texts(names, user, rows, plain), 3)

    scratch, blocks = new_scratch(), 1_000_000
    hash_blocks(block_address(), scratch, scratch.view(np.uint32), 10)
    block = _median(lambda: hash_blocks(block_address(), scratch, scratch.view(np.uint32), blocks)) / blocks

    started, cpu = time.perf_counter(), time.process_time()
    made = _writer(arenas, ring).write(tmp_path / "shards", kernels=True)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    blocks_each = made.record_bytes // 64 * 2 + made.record_bytes // 32 * 2
    shutil.rmtree(tmp_path / "shards")
    with capsys.disabled():
        print(
            f"\nproofs of height {HEIGHT}, {len(arena.names):,} accounts x 2 leaves, CPU of one core"
            f"\n  compact paths        {count / gathered:12,.0f} proofs/s   copying as much: {count / floor:,.0f}/s"
            f"\n  record texts (JSON)  {2 * users / texts:12,.0f} proofs/s   {users / texts:,.0f} records/s"
            f"\n  sealed shards        {made.records / cpu:12,.0f} records/s  of {made.record_bytes} bytes, all in:"
            f" {wall:.1f} s wall, {made.records * (made.record_bytes + 64) / wall / 1e6:,.0f} MB/s"
            f"\n  SHA-256 floor        {1 / (block * blocks_each):12,.0f} records/s  ({block * 1e9:.0f} ns a block)"
        )


def test_verifier_a_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = dict(zip(("proof", "key", "checkpoint"), tall_proof(26), strict=True))
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    arguments = ["proof", str(tmp_path / "proof"), "--checkpoint", str(tmp_path / "checkpoint")]
    arguments += ["--key", str(tmp_path / "key")]
    with capsys.disabled():
        trust = compline_verify.Trust(
            compline_verify.read_keys(texts["key"].encode()),
            [compline_verify.read_checkpoint(texts["checkpoint"], "checkpoint")],
            [],
        )
        value = texts["proof"].encode()
        inside = _median(lambda: compline_verify.check_proof(compline_verify.strict_json(value, "file"), trust), 21)
        alone = _median(
            lambda: subprocess.run([sys.executable, "-I", "-S", str(VERIFIER), *arguments], capture_output=True),
            9,
            clock=time.perf_counter,
        )
        bare = _median(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""]), 9, clock=time.perf_counter)
        print(
            f"\nverifier, height 26, two leaves: {inside * 1e3:.1f} ms of CPU; as a command {alone * 1e3:.0f} ms"
            f" (an empty interpreter {bare * 1e3:.0f} ms)"
        )


@pytest.mark.browser
def test_page_at_height_26(capsys: pytest.CaptureFixture[str]) -> None:
    from playwright.sync_api import sync_playwright

    from tests.conftest import CHROMIUM
    from tests.integration.test_verify_page import FLAGS, PAGE

    timed = """async ([proof, key, checkpoint, native]) => {
      const bytes = (text) => new TextEncoder().encode(text), taken = [];
      for (let n = 0; n < 15; n++) {
        const started = performance.now();
        const files = {proof: bytes(proof), key: bytes(key), checkpoint: bytes(checkpoint)};
        const found = await compline.check(files, {native});
        taken.push(performance.now() - started);
        if (found.exit !== 0) throw new Error(found.what);
      }
      return [taken[0], taken.sort((a, b) => a - b)[7]];
    }"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page()
        page.goto(PAGE.as_uri())
        native = page.evaluate(timed, [*tall_proof(26), True])
        own = page.evaluate(timed, [*tall_proof(26), False])
        browser.close()
    with capsys.disabled():
        print(
            f"\npage, height 26, two leaves: first {native[0]:.0f} ms, median {native[1]:.0f} ms with the browser's"
            f" Ed25519; {own[0]:.0f} and {own[1]:.0f} ms with the page's own"
        )
