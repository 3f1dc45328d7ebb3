"""Trees by kernels equal trees in plain hashlib, byte for byte, whatever the balances; and the vector's too."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, UncheckedError
from engine.money import MAX_UNITS
from engine.reserves import arena_builder
from engine.reserves.arena import TreeArena, folder_of
from engine.reserves.arena_builder import ArenaBuilder, ordered
from engine.reserves.build import TreeKernel, build_trees
from engine.reserves.fields import u64
from engine.reserves.holdings import blocks_of, read_block
from engine.reserves.kernels import leaves as leaf_kernels
from engine.reserves.kernels import sha256 as sha_kernels
from engine.reserves.kernels.sha256 import BlockFunction, block_address, new_scratch
from engine.reserves.keys import KeyRing, ReserveKeys, derive_demo_keys, hmac_sha256
from engine.reserves.leaves import LeafError
from engine.reserves.tree import ControlTotalError, TreePolicy, build_asset_tree, climb, sum_path

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "reserves_v1.json"
RING = KeyRing(derive_demo_keys(5).reserve, "test.example")
CTX = bytes(range(32))
ASSETS = {1: ("BTC", 8), 7: ("USD-longer-than-most-asset-names", 2)}
KERNELS = [TreeKernel.LIBCRYPTO, TreeKernel.NUMBA, TreeKernel.HASHLIB]
Held = dict[str, dict[str, int]]


def text_of(held: Held) -> bytes:
    numbers = {asset: number for number, (asset, _) in ASSETS.items()}
    lines = [(account, numbers[asset], units) for account, row in held.items() for asset, units in row.items()]
    return b"".join(b"%s\t%d\t%d\n" % (account.encode(), number, units) for account, number, units in sorted(lines))


def totals_of(held: Held) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in held.values():
        for asset, units in row.items():
            found[asset] = found.get(asset, 0) + units
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def built(folder: Path, held: Held, kernel: TreeKernel, policy: TreePolicy) -> dict[str, bytes]:
    text = text_of(held)
    pieces = [text[at : at + 100] for at in range(0, len(text), 100)]
    build_trees(
        folder,
        pieces,
        ASSETS,
        holdings=1,
        control_totals=totals_of(held),
        ctx=CTX,
        ring=RING,
        policy=policy,
        kernel=kernel,
    )
    return files_of(folder)


amounts = st.one_of(
    st.just(0), st.just(1), st.integers(0, 2**32), st.integers(0, 2**70), st.just(2**64 - 1), st.integers(0, 2**119)
)
names = st.text("abz09-", min_size=1, max_size=64)
holdings = st.dictionaries(
    names, st.dictionaries(st.sampled_from([a for a, _ in ASSETS.values()]), amounts), max_size=40
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held=holdings, chunks=st.integers(1, 5))
def test_every_builder_writes_the_same_files(tmp_path_factory: pytest.TempPathFactory, held: Held, chunks: int) -> None:
    policy = TreePolicy(chunks, (1, 3, 8))
    folder = tmp_path_factory.mktemp("trees")
    found = [built(folder / kernel.value, held, kernel, policy) for kernel in KERNELS]
    assert found[0] == found[1] == found[2]


def test_accounts_across_blocks_and_threads_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {f"u-{n * 7919 % 10007:05d}": {"BTC": n * n, ASSETS[7][0]: n} for n in range(5000)}
    text, policy = text_of(held), TreePolicy(2, (14,))
    whole = built(tmp_path / "whole", held, TreeKernel.HASHLIB, policy)
    monkeypatch.setattr(arena_builder, "BUCKET_LEAVES", 1 << 9)
    for workers in (1, 3):
        with ArenaBuilder(tmp_path / str(workers), ASSETS, ctx=CTX, ring=RING, policy=policy, workers=workers) as made:
            for block in blocks_of([text[at : at + 777] for at in range(0, len(text), 777)], block_bytes=9000):
                made.add(block)
            made.finish(totals_of(held))
        assert files_of(tmp_path / str(workers)) == whole


def test_stored_tree_has_the_paths_of_the_tree_in_memory(tmp_path: Path) -> None:
    held = {f"u-{n}": {"BTC": 10**n} for n in range(9)}
    balances = [(account, row["BTC"]) for account, row in held.items()]
    policy, total = TreePolicy(2, (6,)), totals_of(held)["BTC"]
    tree = build_asset_tree(
        "BTC", 8, balances, ctx=CTX, ring=RING, control_total=total, policy=policy, keep_levels=True
    )
    built(tmp_path, held, TreeKernel.LIBCRYPTO, policy)
    arena = TreeArena.open(folder_of(tmp_path, "BTC"))
    assert arena.entry == tree.entry
    for (account, chunk), index in tree.positions.items():
        assert arena.indices(account)[chunk] == index
        assert arena.path(index) == sum_path(tree.levels, index)
        assert climb(arena.leaf(index), index, arena.path(index)) == (bytes.fromhex(tree.entry.root), total)
    assert arena.indices("u-99") == arena.indices("a") == []
    lines = b"".join(arena.dump_lines()).decode().splitlines()
    assert lines[1:] == [f"{digest.hex()} {amount}" for digest, amount in tree.levels[0]]


@pytest.mark.skipif(not VECTORS.is_file(), reason=f"outside truth is absent: {VECTORS}")
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_builder_gives_the_vectors_leaves_and_roots(tmp_path: Path, kernel: TreeKernel) -> None:
    vector = json.loads(VECTORS.read_text())
    ring = KeyRing(ReserveKeys(bytes.fromhex(vector["master_hex"]), vector["key_epoch"]), vector["header"]["exchange"])
    assets = {n: (asset, vector["decimals"][asset]) for n, asset in enumerate(sorted(vector["balances"]))}
    lines = [
        (account, number, amount)
        for number, (asset, _) in assets.items()
        for account, amount in vector["balances"][asset].items()
    ]
    text = "".join(f"{account}\t{number}\t{amount}\n" for account, number, amount in sorted(lines)).encode()
    totals = {asset: sum(map(int, rows.values())) for asset, rows in vector["balances"].items()}
    policy = TreePolicy(vector["chunks"], tuple(vector["height_list"]))
    made = build_trees(
        tmp_path,
        [text],
        assets,
        holdings=1,
        control_totals=totals,
        ctx=bytes.fromhex(vector["ctx"]),
        ring=ring,
        policy=policy,
        kernel=kernel,
    )
    assert [one.entry.as_dict() for one in made] == json.loads(vector["manifest"])["assets"]
    for asset, leaves in vector["leaves"].items():
        arena = TreeArena.open(folder_of(tmp_path, asset))
        found = [arena.leaf(index) for index in range(1 << arena.entry.height)]
        assert [(digest.hex(), str(amount)) for digest, amount in found] == [tuple(leaf) for leaf in leaves]


wide = st.integers(0, 2**128 - 1) | st.integers(0, 2**65) | st.sampled_from([2**64, 2**64 - 1, 2**128 - 1, 2**127])
divisor = st.integers(1, 2**127) | st.integers(1, 2**66) | st.sampled_from([2**64, 2**64 - 1, 2**127, 2**32, 2**63])


@settings(max_examples=500, deadline=None)
@given(number=wide, by=divisor)
def test_remainder_of_two_words_is_pythons(number: int, by: int) -> None:
    low = 2**64 - 1
    pairs, out = np.array([[number & low, number >> 64, by & low, by >> 64]], np.uint64), np.zeros((1, 2), np.uint64)
    leaf_kernels.remainders(pairs, out)
    assert int(out[0, 0]) + (int(out[0, 1]) << 64) == number % by


@pytest.mark.parametrize("which", list(BlockFunction))
def test_block_functions_give_hashlibs_hmac(which: BlockFunction) -> None:
    block, scratch, key = block_address(which), new_scratch(), hashlib.sha256(b"key").digest()
    words, states = scratch.view(np.uint32), np.zeros(16, np.uint32)
    leaf_kernels.states_of_key(block, scratch, words, np.frombuffer(key, np.uint8), states)
    out = np.zeros(3, np.uint64)
    leaf_kernels.order_keys(block, scratch, words, states, 2**40, out)
    assert [int(one) for one in out] == [
        int.from_bytes(hmac.digest(key, u64(2**40 + n), "sha256")[:8], "big") for n in range(3)
    ]


def test_order_falls_back_to_whole_keys_where_the_first_bytes_are_equal() -> None:
    whole = {entry: hmac_sha256(b"k", u64(entry)) for entry in range(300)}
    keys = np.array([whole[entry][0] >> 5 for entry in range(300)], np.uint64)
    shifted = keys << np.uint64(61)
    with ThreadPoolExecutor(1) as pool:
        order = [int(one) for one in ordered(shifted, lambda entry: whole[entry], pool)]
    assert order == sorted(range(300), key=lambda entry: (whole[entry][0] >> 5, whole[entry]))


def test_machine_without_libcrypto_uses_the_compiled_one_and_says_so_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sha_kernels, "_libraries", lambda: iter(["/nowhere.so", "libm.so.6"]))
    block_address.cache_clear()
    try:
        assert block_address() == block_address(BlockFunction.NUMBA)
        with pytest.raises(ConfigError, match="SHA256_Transform"):
            block_address(BlockFunction.LIBCRYPTO)
    finally:
        block_address.cache_clear()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"B\t1\t5\n", "a-z, 0-9"),
        (b"\t1\t5\n", "a-z, 0-9"),
        (b"a" * 65 + b"\t1\t5\n", "a-z, 0-9"),
        (b"a\t1\t-5\n", "whole number"),
        (b"a\t1\t\n", "whole number"),
        (b"a\t1\t5.0\n", "whole number"),
        (b"a\t\t5\n", "whole number"),
        (b"a\t1\t%d\n" % (MAX_UNITS + 1), "2\\^127"),
        (b"a\t1\t%d\n" % 10**38, None),
        (b"a\t1\t%d\n" % (9 * 10**38), "2\\^127"),
        (b"a\t1\t1" + b"0" * 60 + b"\n", "2\\^127"),
        (b"b\t1\t5\na\t1\t5\n", "ascend"),
        (b"a\t1\t5\na\t1\t5\n", "ascend"),
        (b"a\t1\t5", "whole lines"),
        (b"\n", "a-z|five bytes"),
    ],
)
def test_malformed_balances_are_refused_by_line(text: bytes, rule: str | None) -> None:
    if rule is None:
        assert len(read_block(text).owners) == 1
        return
    with pytest.raises(LeafError) as caught:
        read_block(text)
    assert __import__("re").search(rule, caught.value.rule or str(caught.value))


def test_account_out_of_order_across_blocks_is_refused() -> None:
    text = b"".join(b"u-%05d\t1\t5\n" % n for n in (*range(2000), 1))
    with pytest.raises(LeafError, match="ascend"):
        list(blocks_of([text[:20000], text[20000:]], block_bytes=5000))


@pytest.mark.parametrize("kernel", KERNELS)
def test_total_that_is_not_the_ledgers_builds_nothing(tmp_path: Path, kernel: TreeKernel) -> None:
    with pytest.raises(ControlTotalError):
        build_trees(
            tmp_path,
            [b"a\t1\t5\n"],
            ASSETS,
            holdings=1,
            control_totals={"BTC": 6},
            ctx=CTX,
            ring=RING,
            policy=TreePolicy(),
            kernel=kernel,
        )
    assert not folder_of(tmp_path, "BTC").exists()


def test_damaged_store_is_refused(tmp_path: Path) -> None:
    built(tmp_path, {"a": {"BTC": 3}}, TreeKernel.HASHLIB, TreePolicy(2, (3,)))
    folder = folder_of(tmp_path, "BTC")
    data = (folder / "nodes").read_bytes()
    for damaged in (data[:-1], data[:-1] + b"\x07"):
        (folder / "nodes").write_bytes(damaged)
        with pytest.raises(UncheckedError):
            TreeArena.open(folder)
    subprocess.run(["rm", "-r", str(folder)], check=True)
    with pytest.raises(UncheckedError):
        TreeArena.open(folder)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=140), st.integers(0, 2_000).map(bytes)), min_size=1, max_size=8))
@pytest.mark.parametrize("which", [None, BlockFunction.NUMBA])
def test_texts_of_any_length_are_hashed_as_hashlib_does(which: BlockFunction | None, texts: list[bytes]) -> None:
    ends, out, scratch = np.cumsum([len(text) for text in texts]), np.zeros((len(texts), 32), np.uint8), new_scratch()
    joined = np.frombuffer(b"".join(texts) + b"\0", np.uint8).copy()
    sha_kernels.hash_texts(block_address(which), scratch, scratch.view(np.uint32), joined, ends, out)
    assert [bytes(row) for row in out] == [hashlib.sha256(text).digest() for text in texts]
