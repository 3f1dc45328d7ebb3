"""Shards written by kernels equal the plain builder's records byte for byte, and every account opens its own."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.reserves.arena import TreeArena, folder_of, store_tree
from engine.reserves.fields import FormatError
from engine.reserves.header import Header
from engine.reserves.kernels import records
from engine.reserves.keys import KeyRing, derive_demo_keys
from engine.reserves.manifest import build_manifest, sign_manifest
from engine.reserves.proof import LogProof, build_proof, proof_record, proof_text
from engine.reserves.shard import join_shard, record_size, seal_record, shard_id
from engine.reserves.shard_index import digits_for, open_index, shard_file
from engine.reserves.shards import ShardWriter
from engine.reserves.tree import TreePolicy, build_asset_tree
from engine.reserves.verifier import compline_verify

KEYS = derive_demo_keys(11)
RING = KeyRing(KEYS.reserve, "null.example")
HEADER = Header("null.example", 0, "2026-01-05", 1, "2026-01-06T00:00:00Z", 10, "ab" * 32, "cd" * 32)
NOTE = "null.example/por\n1\nAA==\n\n— x y\n"


def _day(folder, balances, chunks=2):
    trees = []
    for asset, rows in balances.items():
        tree = build_asset_tree(
            asset,
            8,
            rows,
            ctx=HEADER.ctx,
            ring=RING,
            control_total=sum(units for _, units in rows),
            policy=TreePolicy(chunks, (3, 6, 9, 12)),
            keep_levels=True,
        )
        store_tree(folder_of(folder, asset), tree)
        trees.append(tree)
    signed = sign_manifest(
        build_manifest(HEADER, assets=[tree.entry for tree in trees], verdicts_sha256="ef" * 32), KEYS.manifest_signer()
    )
    log = LogProof(0, 1, (), NOTE)
    return trees, signed, log


def _write(folder, balances, trees_folder, signed, log, digits, kernels=True):
    arenas = {asset: TreeArena.open(folder_of(trees_folder, asset)) for asset in balances}
    writer = ShardWriter(
        arenas,
        ctx=HEADER.ctx,
        ring=RING,
        signature=signed.signature.hex(),
        key_id=signed.key_id,
        log=log,
        digits=digits,
        workers=2,
    )
    return writer.write(folder, kernels=kernels)


@pytest.fixture(scope="module")
def balances():
    random_ = random.Random(5)
    names = [f"u-{n}" for n in range(90)] + ["a", "z" * 64]
    amounts = [0, 1, 9, 10, 10**18 - 1, 2**64 - 1, 2**64, 10**19, 10**27, 10**30 + 7, 2**120]
    held = {}
    for asset in ('A"B\\C', "BTC", "WEI18"):
        rows = [(name, random_.choice(amounts) + random_.randrange(3)) for name in names if random_.random() < 0.7]
        held[asset] = rows
    return held


@pytest.mark.parametrize(("digits", "chunks"), [(0, 2), (1, 1), (2, 3)])
def test_shards_are_the_plain_builders_byte_for_byte(tmp_path, balances, digits, chunks, monkeypatch):
    monkeypatch.setattr("engine.reserves.shard_index._CROWD", 0)
    monkeypatch.setattr("engine.reserves.shards._BATCH_BYTES", 1 << 19)
    trees, signed, log = _day(tmp_path / "trees", balances, chunks)
    made = _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, digits)
    accounts = sorted({name for rows in balances.values() for name, units in rows if units})
    expected = {}
    for account in accounts:
        proof = build_proof(account, ring=RING, trees=trees, signed=signed, log=log)
        sealed = seal_record(RING.user_key(account), HEADER.ctx, proof_record(proof), made.record_bytes)
        expected.setdefault(shard_file(shard_id(account, digits)), []).append(sealed)
    found = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir() if path.suffix == ".shard"}
    assert found == {name: join_shard(sealed) for name, sealed in expected.items()}
    assert made.records == len(accounts)
    assert open_index(tmp_path / "shards") == made.index()


def test_every_account_opens_its_record(tmp_path, balances):
    trees, signed, log = _day(tmp_path / "trees", balances)
    made = _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, 3)
    assert made.digits == 0, "91 accounts hide in one shard"
    shard = (tmp_path / "shards" / "all.shard").read_bytes()
    for account in ("a", "z" * 64, "u-7"):
        plain = compline_verify.open_record(shard, RING.user_key(account), HEADER.ctx)
        stated = build_proof(account, ring=RING, trees=trees, signed=signed, log=log)
        assert {**json.loads(plain), "manifest": signed.data.decode()} == json.loads(proof_text(stated))


def test_writing_twice_gives_the_same_and_leaves_nothing_beside(tmp_path, balances):
    _, signed, log = _day(tmp_path / "trees", balances)
    first = _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, 3)
    (tmp_path / "shards" / "stray.shard").write_bytes(b"of an earlier day")
    (tmp_path / ".shards.draft").mkdir()
    second = _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, 3)
    assert first == second == _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, 3, kernels=False)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["all.shard", "index.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "trees"]


def test_no_account_no_shard(tmp_path):
    _, signed, log = _day(tmp_path / "trees", {})
    made = _write(tmp_path / "shards", {}, tmp_path / "trees", signed, log, 3)
    assert (made.files, made.records) == ({}, 0)
    assert open_index(tmp_path / "shards") == made.index()


def test_a_cut_or_missing_shard_is_noticed(tmp_path, balances):
    _, signed, log = _day(tmp_path / "trees", balances)
    _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, 3)
    shard = tmp_path / "shards" / "all.shard"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert open_index(tmp_path / "shards") is None
    shard.unlink()
    assert open_index(tmp_path / "shards") is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**127 - 1) | st.integers(0, 40).map(lambda n: 10**n), min_size=1, max_size=40))
def test_amounts_are_written_in_decimal(amounts):
    amounts = [one % 2**127 for one in amounts]
    pairs = np.array([[one >> 64, one & (2**64 - 1)] for one in amounts], np.uint64)
    plain, ends = np.zeros((len(amounts), 64), np.uint8), np.zeros(len(amounts), np.int64)
    records.amount_texts(pairs, plain, ends)
    texts = [plain[n, : ends[n]].tobytes().decode() for n in range(len(amounts))]
    assert texts == [str(one) for one in amounts]


def test_shards_are_crowds():
    assert [digits_for(n, 3) for n in (0, 20, 1023, 1024, 16_384, 262_144, 10**9)] == [0, 0, 0, 1, 2, 3, 3]
    assert digits_for(10**9, 4) == 4
    assert digits_for(10**9, 0) == 0


def test_the_record_size_holds_the_largest_that_anyone_could_have(tmp_path, balances):
    trees, signed, log = _day(tmp_path / "trees", balances)
    made = _write(tmp_path / "shards", balances, tmp_path / "trees", signed, log, 3)
    accounts = {name for rows in balances.values() for name, units in rows if units}
    longest = max(
        len(proof_record(build_proof(one, ring=RING, trees=trees, signed=signed, log=log))) for one in accounts
    )
    assert record_size(longest) <= made.record_bytes <= record_size(longest) + 4096


def test_trees_of_other_keys_are_refused_before_a_record_is_written(tmp_path, balances):
    _, _, log = _day(tmp_path / "trees", balances)
    arenas = {asset: TreeArena.open(folder_of(tmp_path / "trees", asset)) for asset in balances}
    ring = KeyRing(derive_demo_keys(12).reserve, "null.example")
    writer = ShardWriter(arenas, ctx=HEADER.ctx, ring=ring, signature="", key_id="", log=log, digits=3)
    with pytest.raises(FormatError, match="not this account's"):
        writer.write(tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
