"""What the builder of trees refuses, and proofs and shards, and the words they do it with."""

import dataclasses
import json
import random
import time
from decimal import Decimal

import pytest

from engine.errors import GateError, InputError
from engine.money import MAX_UNITS
from engine.reserves.checkpoint import sign_checkpoint
from engine.reserves.fields import FormatError
from engine.reserves.keys import KeyRing, derive_demo_keys
from engine.reserves.leaves import LeafError
from engine.reserves.manifest import (
    build_manifest,
    sign_manifest,
)
from engine.reserves.merkle import inclusion_proof, leaf_hash, merkle_root
from engine.reserves.proof import LogProof, build_proof, proof_record
from engine.reserves.shard import ShardError, find_record, join_shard, open_record, record_size, seal_record, shard_id
from engine.reserves.tree import ControlTotalError, TreePolicy, build_asset_tree, tree_height
from tests.fixtures.reserve_parts import HEADER, KEYS, POLICY, RING, tree_of


def test_total_other_than_control_total_is_a_failed_gate():
    with pytest.raises(ControlTotalError, match="add up to 5, the ledger's control total is 6") as raised:
        tree_of([("a", 5)], total=6)
    assert isinstance(raised.value, GateError)


@pytest.mark.parametrize(
    "rows",
    [
        [("a", -1)],
        [("a", MAX_UNITS + 1)],
        [("a", MAX_UNITS), ("b", 1)],
        [("a", 1), ("a", 1)],
        [("a", 0), ("a", 1)],
        [("", 1)],
        [("A", 1)],
        [("a_b", 1)],
        [("a" * 65, 1)],
        [("a\n", 1)],
        [("a", True)],
        [("a", Decimal(1))],
        [("a", 10**5000)],
    ],
)
def test_bad_rows_are_refused(rows):
    with pytest.raises(FormatError):
        tree_of(rows, total=1)


@pytest.mark.parametrize(
    ("asset", "decimals"), [("", 8), ("x" * 33, 8), ("BT\nC", 8), ("é", 8), ("BTC", 19), ("BTC", -1)]
)
def test_bad_assets_are_refused(asset, decimals):
    with pytest.raises(FormatError):
        tree_of([("a", 1)], asset=asset, decimals=decimals)


def test_too_many_leaves_for_the_policy_are_refused():
    tree_of([(f"u{n}", 1) for n in range(4)])
    with pytest.raises(LeafError, match="10 leaves do not fit a tree of height 3"):
        tree_of([(f"u{n}", 1) for n in range(5)])


def test_the_smallest_height_that_fits_is_taken():
    assert [tree_height(n, (2, 3)) for n in (0, 4, 5, 8)] == [2, 2, 3, 3]


@pytest.mark.parametrize("heights", [(), (3, 2), (2, 2), (0,), (41,)])
def test_bad_height_lists_are_refused(heights):
    with pytest.raises(FormatError):
        TreePolicy(2, heights)


def test_zero_balance_has_no_leaf_and_an_empty_asset_a_tree_of_padding():
    assert tree_of([("a", 0), ("b", 1)]).positions.keys() == {("b", 0), ("b", 1)}
    empty = tree_of([])
    assert (empty.entry.total, empty.entry.height, empty.positions) == (0, 2, {})


def test_largest_amount_is_accepted():
    assert tree_of([("a", MAX_UNITS)]).entry.total == MAX_UNITS


def test_another_day_epoch_or_exchange_gives_another_root():
    root = tree_of([("a", 5)]).entry.root
    other = dataclasses.replace(HEADER, books_sha256="aa" * 32)
    rings = [
        (KeyRing(KEYS.reserve, "unit.exchange"), other.ctx),
        (KeyRing(KEYS.reserve, "other.exchange"), HEADER.ctx),
        (KeyRing(dataclasses.replace(KEYS.reserve, key_epoch=2), "unit.exchange"), HEADER.ctx),
    ]
    for ring, ctx in rings:
        tree = build_asset_tree("BTC", 8, [("a", 5)], ctx=ctx, ring=ring, control_total=5, policy=POLICY)
        assert tree.entry.root != root


def test_five_hundred_users_and_six_assets_build_in_under_a_second():
    rng = random.Random(1)
    ring = KeyRing(KEYS.reserve, "unit.exchange")
    books = {f"ASSET{n}": [(f"user-{u:04}", rng.randrange(1, 10**20)) for u in range(500)] for n in range(6)}
    start = time.perf_counter()
    for asset, rows in books.items():
        total = sum(amount for _, amount in rows)
        build_asset_tree(asset, 18, rows, ctx=HEADER.ctx, ring=ring, control_total=total, policy=TreePolicy())
    took_s = time.perf_counter() - start
    print(f"500 users x 6 assets x 2 chunks: {took_s:.3f} s")
    assert took_s < 1


def _sealed():
    tree = tree_of([("a", 5), ("b", 0), ("c", 9)], keep_levels=True)
    manifest = build_manifest(HEADER, assets=[tree.entry], verdicts_sha256="ef" * 32)
    signed = sign_manifest(manifest, KEYS.manifest_signer())
    checkpoint = sign_checkpoint("unit.exchange", 1, merkle_root([signed.data]), KEYS.checkpoint_signer())
    log = LogProof(0, 1, tuple(inclusion_proof([leaf_hash(signed.data)], 0)), checkpoint)
    return tree, signed, log


def test_proofs_are_refused_for_unknown_accounts_other_days_and_trees_without_levels():
    tree, signed, log = _sealed()
    assert build_proof("a", ring=RING, trees=[tree], signed=signed, log=log)["statement"] == [
        {"asset": "BTC", "amount": "5"}
    ]
    for account in ("b", "nobody", "NOBODY"):
        with pytest.raises(InputError):
            build_proof(account, ring=RING, trees=[tree], signed=signed, log=log)
    without_levels = tree_of([("a", 5), ("c", 9)])
    other_tree = tree_of([("a", 6)], keep_levels=True)
    for trees, place in (
        ([without_levels], log),
        ([other_tree], log),
        ([tree], dataclasses.replace(log, index=1)),
    ):
        with pytest.raises(FormatError):
            build_proof("a", ring=RING, trees=trees, signed=signed, log=place)


def test_proof_of_another_rings_keys_is_refused():
    tree, signed, log = _sealed()
    ring = KeyRing(derive_demo_keys(2).reserve, "unit.exchange")
    with pytest.raises(FormatError, match="the leaf is not this account's"):
        build_proof("a", ring=ring, trees=[tree], signed=signed, log=log)


def test_a_proof_without_its_manifest_travels_in_a_shard():
    tree, signed, log = _sealed()
    records = {}
    for account in ("a", "c"):
        records[account] = proof_record(build_proof(account, ring=RING, trees=[tree], signed=signed, log=log))
    size = record_size(max(map(len, records.values())))
    shard = join_shard(seal_record(RING.user_key(who), HEADER.ctx, plain, size) for who, plain in records.items())
    found = find_record(shard, size, RING.user_key("c"), HEADER.ctx)
    opened = json.loads(open_record(RING.user_key("c"), HEADER.ctx, found))
    assert opened["account"] == "c"
    assert "manifest" not in opened
    assert find_record(shard, size, RING.user_key("b"), HEADER.ctx) is None
    with pytest.raises(ShardError):
        find_record(shard[:-1], size, RING.user_key("c"), HEADER.ctx)
    with pytest.raises(ShardError):
        open_record(RING.user_key("c"), HEADER.ctx, found[:-1])


def test_shards_refuse_records_of_two_sizes_or_one_user_twice():
    key = RING.user_key("a")
    small, large = seal_record(key, HEADER.ctx, b"", 4096), seal_record(key, HEADER.ctx, b"", 8192)
    for records in ([small, large], [small, small]):
        with pytest.raises(ShardError):
            join_shard(records)
    for plaintext, size in ((b"x" * 4093, 4096), (b"", 4095), (b"", 0)):
        with pytest.raises(ShardError):
            seal_record(key, HEADER.ctx, plaintext, size)


def test_record_size_holds_the_length_too_and_shard_ids_have_0_to_4_digits():
    assert [record_size(n) for n in (0, 4092, 4093)] == [4096, 4096, 8192]
    assert [len(shard_id("a", n)) for n in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(FormatError):
        shard_id("a", 5)
