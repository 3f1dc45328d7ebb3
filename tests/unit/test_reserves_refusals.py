"""What the builder, the parsers and the key files refuse, and the words they do it with."""

import dataclasses
import json
import os
import random
import stat
import time
from decimal import Decimal

import pytest

from engine.canonical import jcs
from engine.errors import ConfigError, GateError, InputError
from engine.money import MAX_UNITS
from engine.reserves.checkpoint import CheckpointError, parse_checkpoint, parse_vkey, sign_checkpoint, verify_checkpoint
from engine.reserves.entries import GateVerdict, OtherLiability, Receivable, ReserveEntry, verdicts_sha256
from engine.reserves.fields import FormatError, load_strict_json
from engine.reserves.header import Header
from engine.reserves.key_file import (
    keys_text,
    parse_keys,
    parse_published_keys,
    published_keys_text,
    read_key_file,
    write_key_file,
)
from engine.reserves.keys import KeyRing, KeySet, ReserveKeys, derive_demo_keys, generate_keys, refuse_public_keys
from engine.reserves.leaves import LeafError
from engine.reserves.manifest import (
    ManifestError,
    SignedManifest,
    build_manifest,
    parse_manifest,
    sign_manifest,
    verify_manifest,
)
from engine.reserves.merkle import EMPTY_ROOT, inclusion_proof, leaf_hash, merkle_root
from engine.reserves.proof import LogProof, build_proof, proof_record
from engine.reserves.shard import ShardError, find_record, join_shard, open_record, record_size, seal_record, shard_id
from engine.reserves.signing import SignatureError
from engine.reserves.tree import ControlTotalError, TreePolicy, build_asset_tree, tree_height

KEYS = derive_demo_keys(1)
RING = KeyRing(KEYS.reserve, "unit.exchange")
HEADER = Header("unit.exchange", 0, "2026-01-05", 1, "2026-01-06T00:00:00Z", 10, "ab" * 32, "cd" * 32)
POLICY = TreePolicy(2, (2, 3))


def _tree(rows, *, total=None, asset="BTC", decimals=8, policy=POLICY, keep_levels=False):
    control = sum(amount for _, amount in rows) if total is None else total
    return build_asset_tree(
        asset,
        decimals,
        rows,
        ctx=HEADER.ctx,
        ring=RING,
        control_total=control,
        policy=policy,
        keep_levels=keep_levels,
    )


def _manifest(header=HEADER, **changes):
    parts = {
        "assets": [_tree([("a", 5)]).entry, _tree([("a", 7)], asset="AAA").entry],
        "verdicts_sha256": "ef" * 32,
        "reserves": [ReserveEntry("BTC", "bitcoin", "bc1", 5, 9, "00", "bip-322")],
        "other_liabilities": [OtherLiability("rewards_payable", "BTC", 1)],
        "receivables": [Receivable("BTC", 2)],
    }
    return build_manifest(header, **{**parts, **changes})


def test_total_other_than_control_total_is_a_failed_gate():
    with pytest.raises(ControlTotalError, match="add up to 5, the ledger's control total is 6") as raised:
        _tree([("a", 5)], total=6)
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
        _tree(rows, total=1)


@pytest.mark.parametrize(
    ("asset", "decimals"), [("", 8), ("x" * 33, 8), ("BT\nC", 8), ("é", 8), ("BTC", 19), ("BTC", -1)]
)
def test_bad_assets_are_refused(asset, decimals):
    with pytest.raises(FormatError):
        _tree([("a", 1)], asset=asset, decimals=decimals)


def test_too_many_leaves_for_the_policy_are_refused():
    _tree([(f"u{n}", 1) for n in range(4)])
    with pytest.raises(LeafError, match="10 leaves do not fit a tree of height 3"):
        _tree([(f"u{n}", 1) for n in range(5)])


def test_the_smallest_height_that_fits_is_taken():
    assert [tree_height(n, (2, 3)) for n in (0, 4, 5, 8)] == [2, 2, 3, 3]


@pytest.mark.parametrize("heights", [(), (3, 2), (2, 2), (0,), (41,)])
def test_bad_height_lists_are_refused(heights):
    with pytest.raises(FormatError):
        TreePolicy(2, heights)


def test_zero_balance_has_no_leaf_and_an_empty_asset_a_tree_of_padding():
    assert _tree([("a", 0), ("b", 1)]).positions.keys() == {("b", 0), ("b", 1)}
    empty = _tree([])
    assert (empty.entry.total, empty.entry.height, empty.positions) == (0, 2, {})


def test_largest_amount_is_accepted():
    assert _tree([("a", MAX_UNITS)]).entry.total == MAX_UNITS


def test_another_day_epoch_or_exchange_gives_another_root():
    root = _tree([("a", 5)]).entry.root
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


def test_manifest_sorts_its_lists_and_round_trips():
    manifest = _manifest()
    assert [entry.asset for entry in manifest.assets] == ["AAA", "BTC"]
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert json.loads(manifest.to_bytes())["reserves_root"] != EMPTY_ROOT.hex()
    assert json.loads(_manifest(reserves=[]).to_bytes())["reserves_root"] == EMPTY_ROOT.hex()


def test_duplicate_entries_are_refused_by_the_builder():
    entry = _tree([("a", 5)]).entry
    reserve = ReserveEntry("BTC", "bitcoin", "bc1", 5, 9, "00", "bip-322")
    for changes in (
        {"assets": [entry, entry]},
        {"reserves": [reserve, dataclasses.replace(reserve, amount=6)]},
        {"other_liabilities": [OtherLiability("x", "BTC", 1)] * 2},
        {"receivables": [Receivable("BTC", 1), Receivable("BTC", 2)]},
    ):
        with pytest.raises(ManifestError, match="strictly ascending"):
            _manifest(**changes)


def test_reclose_names_what_it_supersedes():
    second = dataclasses.replace(HEADER, seq=1, version=2)
    checkpoint = sign_checkpoint("unit.exchange", 1, b"\0" * 32, KEYS.checkpoint_signer())
    assert _manifest(second, supersedes=0, prev_checkpoint=checkpoint).supersedes == 0
    for supersedes in (None, 1, -1, True):
        with pytest.raises(ManifestError):
            _manifest(second, supersedes=supersedes, prev_checkpoint=checkpoint)
    with pytest.raises(ManifestError):
        _manifest(supersedes=0)


def test_prev_checkpoint_is_that_of_size_seq_of_this_log():
    second = dataclasses.replace(HEADER, seq=2)
    signer = KEYS.checkpoint_signer()
    good = sign_checkpoint("unit.exchange", 2, b"\0" * 32, signer)
    _manifest(second, prev_checkpoint=good)
    for header, text in (
        (second, None),
        (HEADER, good),
        (second, sign_checkpoint("unit.exchange", 1, b"\0" * 32, signer)),
        (second, sign_checkpoint("other.exchange", 2, b"\0" * 32, signer)),
        (second, good[:-1]),
        (second, "\ud800"),
        (second, good.replace("— unit", "— \ud800")),
        (second, good.replace("— unit", "— \x00")),
        (second, 7),
    ):
        with pytest.raises(FormatError):
            _manifest(header, prev_checkpoint=text)


def _tampered(path, value):
    content = json.loads(_manifest().to_bytes())
    target = content
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return jcs(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("extra",), "x"),
        (("supersedes",), None),
        (("v",), "por/2"),
        (("seq",), True),
        (("seq",), -1),
        (("seq",), "0"),
        (("close_date",), "2026-02-30"),
        (("close_date",), "20260105"),
        (("snapshot_at",), "2026-01-06T00:00:00"),
        (("snapshot_at",), "2026-01-06T25:00:00Z"),
        (("books_sha256",), "AB" * 32),
        (("books_sha256",), "ab" * 31),
        (("exchange",), "é"),
        (("verdicts_sha256",), 5),
        (("snapshot_root",), "00" * 32),
        (("reserves_root",), "00" * 32),
        (("assets",), {}),
        (("assets", 0), []),
        (("assets", 0, "total"), "07"),
        (("assets", 0, "total"), "-7"),
        (("assets", 0, "total"), 7),
        (("assets", 0, "total"), str(2**127)),
        (("assets", 0, "total"), "٧"),
        (("assets", 0, "height"), 41),
        (("assets", 0, "height"), 0),
        (("assets", 0, "height"), True),
        (("assets", 0, "more"), 1),
        (("assets", 0, "root"), None),
        (("reserves", 0, "amount"), "1.0"),
        (("receivables", 0, "asset"), ""),
        (("other_liabilities", 0, "account"), "x\ty"),
    ],
)
def test_tampered_manifests_are_refused(path, value):
    with pytest.raises(ManifestError) as raised:
        parse_manifest(_tampered(path, value))
    assert raised.value.rule


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"seq":0', '"seq": 0'),
        lambda text: text + "\n",
        lambda text: text[:-1],
        lambda text: text.replace('"seq":0', '"seq":0,"seq":0'),
        lambda text: text.replace('"seq":0', '"seq":0.0'),
        lambda text: text.replace('"seq":0', '"seq":0e0'),
        lambda text: text.replace('"seq":0', '"seq":-0'),
        lambda text: text.replace('"seq":0', '"seq":NaN'),
        lambda text: text.replace('"seq":0', '"seq":' + "9" * 5000),
        lambda text: text.replace("unit.exchange", "unit\\u002eexchange"),
        lambda text: "[" * 100_000,
        lambda text: "\ufeff" + text,
        lambda text: "",
        lambda text: "[]",
    ],
)
def test_texts_that_are_not_their_own_jcs_are_refused(change):
    with pytest.raises(ManifestError):
        parse_manifest(change(_manifest().to_bytes().decode()).encode())


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(ManifestError):
        parse_manifest(b"\xff" + _manifest().to_bytes())


def test_strict_json_reads_no_more_than_its_limit():
    with pytest.raises(FormatError, match="11 bytes"):
        load_strict_json(b" " * 11, longest=10, where="text")


def test_signature_is_bound_to_prefix_bytes_and_key():
    signed = sign_manifest(_manifest(), KEYS.manifest_signer())
    public = KEYS.manifest_signer().public_key
    assert verify_manifest(signed, public) == _manifest()
    bare = KEYS.manifest_signer().sign_manifest_message(signed.data)
    stranger = derive_demo_keys(2).manifest_signer()
    for bad in (
        SignedManifest(signed.data, bare, signed.key_id),
        SignedManifest(signed.data + b" ", signed.signature, signed.key_id),
        SignedManifest(signed.data, signed.signature[:-1], signed.key_id),
        SignedManifest(signed.data, signed.signature, "00" * 8),
        sign_manifest(_manifest(), stranger),
    ):
        with pytest.raises(SignatureError):
            verify_manifest(bad, public)


def test_verdicts_digest_ignores_order_and_refuses_two_for_one_gate():
    one, two = GateVerdict("a", "BTC", "pass"), GateVerdict("a", "ETH", "fail", "w-1")
    assert verdicts_sha256([one, two]) == verdicts_sha256([two, one])
    assert verdicts_sha256([one]) != verdicts_sha256([dataclasses.replace(one, verdict="unknown")])
    with pytest.raises(ValueError, match="two verdicts"):
        verdicts_sha256([one, dataclasses.replace(one, verdict="fail")])


def _checkpoint(size=3):
    return sign_checkpoint("unit.exchange", size, bytes(32), KEYS.checkpoint_signer())


def _vkey():
    return parse_published_keys(published_keys_text(KEYS, "unit.exchange")).checkpoint_key


def test_cosignatures_by_other_keys_are_passed_over():
    other = sign_checkpoint("unit.exchange", 3, bytes(32), derive_demo_keys(2).checkpoint_signer())
    text = _checkpoint() + other.split("\n\n")[1]
    assert verify_checkpoint(text, _vkey()).size == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n3\n", "\n03\n"),
        lambda text: text.replace("\n3\n", "\n-3\n"),
        lambda text: text.replace("\n\n", "\nextension\n\n"),
        lambda text: text[:-1],
        lambda text: text.split("—")[0],
        lambda text: text.replace("—", "-"),
        lambda text: text.replace("A=\n\n", "B=\n\n"),
        lambda text: text.replace("A=\n\n", "AAAA=\n\n"),
        lambda text: "x" * 100_000,
    ],
)
def test_malformed_checkpoints_are_refused(change):
    with pytest.raises(CheckpointError):
        parse_checkpoint(change(_checkpoint()))


def test_changed_or_foreign_checkpoints_are_refused():
    for text in (
        _checkpoint().replace("\n3\n", "\n4\n"),
        sign_checkpoint("other.exchange", 3, bytes(32), KEYS.checkpoint_signer()),
        sign_checkpoint("unit.exchange", 3, bytes(32), derive_demo_keys(2).checkpoint_signer()),
    ):
        with pytest.raises(SignatureError):
            verify_checkpoint(text, _vkey())


@pytest.mark.parametrize("exchange", ["a b", "a+b"])
def test_exchange_names_that_a_note_cannot_carry_are_refused(exchange):
    with pytest.raises(CheckpointError):
        sign_checkpoint(exchange, 1, bytes(32), KEYS.checkpoint_signer())


def test_root_of_another_length_is_not_signed():
    with pytest.raises(CheckpointError):
        sign_checkpoint("unit.exchange", 1, bytes(31), KEYS.checkpoint_signer())


@pytest.mark.parametrize("text", ["", "x", "a+00000000+AVLYHBzNIFOb5VCPjXMd6a4OTWn1g4lfw2mlRFGK3Eqf", "a+b+c"])
def test_malformed_vkeys_are_refused(text):
    with pytest.raises(CheckpointError):
        parse_vkey(text)


def test_key_file_round_trips_with_mode_0600_whatever_the_umask(tmp_path):
    keys, path = generate_keys(), tmp_path / "keys.json"
    before = os.umask(0o777)
    try:
        write_key_file(path, keys)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key_file(path) == keys
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]
    refuse_public_keys(keys)


def test_key_file_is_never_overwritten(tmp_path):
    keys, path = generate_keys(), tmp_path / "keys.json"
    write_key_file(path, keys)
    with pytest.raises(ConfigError, match="exists already"):
        write_key_file(path, generate_keys())
    assert read_key_file(path) == keys
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_key_file_readable_by_others_is_refused(tmp_path, mode):
    path = tmp_path / "keys.json"
    write_key_file(path, generate_keys())
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:04o}"):
        read_key_file(path)


def test_absent_odd_or_malformed_key_files_are_refused(tmp_path):
    fifo, folder, text = tmp_path / "fifo", tmp_path / "folder", tmp_path / "text"
    os.mkfifo(fifo, 0o600)
    folder.mkdir(0o700)
    text.write_bytes(b"\xff\xfe")
    text.chmod(0o600)
    for path in (tmp_path / "none", fifo, folder, text):
        with pytest.raises(ConfigError):
            read_key_file(path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_key_file(tmp_path / "none" / "keys.json", KEYS)


def test_malformed_key_text_is_refused_without_quoting_it():
    content = json.loads(keys_text(KEYS))
    for change in ({"master": "SECRET"}, {"v": "x"}, {"purpose": []}, {"key_epoch": -1}, {"more": 1}, {"master": 1}):
        with pytest.raises(ConfigError) as raised:
            parse_keys(json.dumps({**content, **change}), where="test")
        assert "SECRET" not in str(raised.value)
    with pytest.raises(ConfigError):
        parse_keys("\ud800", where="test")


def test_one_secret_for_two_purposes_is_refused():
    with pytest.raises(ConfigError, match="two purposes"):
        KeySet(KEYS.reserve, KEYS.manifest_seed, KEYS.manifest_seed)
    with pytest.raises(ConfigError):
        ReserveKeys(b"short", 1)


def test_secrets_are_not_in_a_repr():
    for secret in (KEYS.reserve.master, KEYS.manifest_seed, KEYS.checkpoint_seed):
        assert secret.hex() not in repr(KEYS)
        assert repr(secret) not in repr(KEYS)


def test_demo_keys_are_the_same_for_a_seed_and_refused_even_when_renamed():
    assert derive_demo_keys(5) == derive_demo_keys(5) != derive_demo_keys(6)
    with pytest.raises(ConfigError, match="public"):
        refuse_public_keys(derive_demo_keys(5))
    renamed = keys_text(derive_demo_keys(5)).replace('"demo"', '"production"')
    assert parse_keys(renamed, where="test").public
    secret, demo = generate_keys(), derive_demo_keys(123456789)
    mixed = KeySet(secret.reserve, secret.manifest_seed, demo.checkpoint_seed)
    with pytest.raises(ConfigError):
        refuse_public_keys(mixed)


def _sealed():
    tree = _tree([("a", 5), ("b", 0), ("c", 9)], keep_levels=True)
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
    without_levels = _tree([("a", 5), ("c", 9)])
    other_tree = _tree([("a", 6)], keep_levels=True)
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
