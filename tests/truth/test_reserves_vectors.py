"""Every byte of `reserves_v1.json`, rebuilt from balances and keys by our builder."""

import hashlib
import json
from pathlib import Path

import pytest

from engine.canonical import jcs
from engine.errors import ComplineError, ConfigError
from engine.reserves.checkpoint import origin_of, parse_checkpoint, parse_vkey, sign_checkpoint, verify_checkpoint
from engine.reserves.checkpoint import vkey_text as make_vkey_text
from engine.reserves.entries import OtherLiability, Receivable, ReserveEntry
from engine.reserves.header import HEADER_KEYS, Header
from engine.reserves.key_file import keys_text, parse_keys, parse_published_keys, published_keys_text
from engine.reserves.keys import KeyRing, KeySet, ReserveKeys, refuse_public_keys
from engine.reserves.manifest import (
    ManifestError,
    SignedManifest,
    build_manifest,
    parse_manifest,
    sign_manifest,
    verify_manifest,
)
from engine.reserves.merkle import inclusion_proof, leaf_hash, merkle_root
from engine.reserves.proof import LogProof, build_proof, proof_text
from engine.reserves.shard import find_record, join_shard, open_record, seal_record, shard_id
from engine.reserves.signing import SignatureError, key_id
from engine.reserves.tree import TreePolicy, build_asset_tree

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "reserves_v1.json"
pytestmark = pytest.mark.skipif(not VECTORS.is_file(), reason=f"outside truth is absent: {VECTORS}")


@pytest.fixture(scope="module")
def vector():
    return json.loads(VECTORS.read_text())


@pytest.fixture(scope="module")
def keys(vector):
    return KeySet(
        ReserveKeys(bytes.fromhex(vector["master_hex"]), vector["key_epoch"]),
        manifest_seed=bytes.fromhex(vector["manifest_key_seed_hex"]),
        checkpoint_seed=bytes.fromhex(vector["checkpoint_key_seed_hex"]),
    )


@pytest.fixture(scope="module")
def header(vector):
    return Header.parse(vector["header"], where="vector")


@pytest.fixture(scope="module")
def ring(vector, keys):
    return KeyRing(keys.reserve, vector["header"]["exchange"])


@pytest.fixture(scope="module")
def trees(vector, header, ring):
    policy = TreePolicy(vector["chunks"], tuple(vector["height_list"]))
    built = []
    for asset, rows in vector["balances"].items():
        balances = [(account, int(amount)) for account, amount in rows.items()]
        total = sum(amount for _, amount in balances)
        decimals = vector["decimals"][asset]
        built.append(
            build_asset_tree(
                asset,
                decimals,
                balances,
                ctx=header.ctx,
                ring=ring,
                control_total=total,
                policy=policy,
                keep_levels=True,
            )
        )
    return built


def _rebuild(text, assets):
    """A manifest put together from its parts; only the digests of other subjects are taken from the vector."""
    stated = json.loads(text)
    return build_manifest(
        Header.parse({key: stated[key] for key in HEADER_KEYS}, where="vector"),
        assets=assets,
        verdicts_sha256=stated["verdicts_sha256"],
        reserves=[ReserveEntry.parse(one, where="vector") for one in stated["reserves"]],
        other_liabilities=[OtherLiability.parse(one, where="vector") for one in stated["other_liabilities"]],
        receivables=[Receivable.parse(one, where="vector") for one in stated["receivables"]],
        prev_checkpoint=stated["prev_checkpoint"],
        supersedes=stated["supersedes"],
    )


@pytest.fixture(scope="module")
def signed(vector, keys, trees):
    manifest = _rebuild(vector["manifest"], [tree.entry for tree in reversed(trees)])
    return sign_manifest(manifest, keys.manifest_signer())


def test_ctx_and_user_keys_are_the_vectors(vector, header, ring):
    assert header.ctx.hex() == vector["ctx"]
    assert {account: ring.user_key(account).hex() for account in vector["user_keys"]} == vector["user_keys"]


def test_policy_digest_is_the_vectors(vector):
    assert hashlib.sha256(jcs(vector["policy"])).hexdigest() == vector["header"]["policy_sha256"]


def test_every_leaf_is_in_the_vectors_place(vector, trees):
    """The tags are not kept, so a leaf is compared by its digest and amount."""
    rebuilt = {tree.entry.asset: [(digest.hex(), str(amount)) for digest, amount in tree.levels[0]] for tree in trees}
    stated = {}
    for asset, leaves in vector["leaves"].items():
        stated[asset] = [tuple(leaf) for leaf in leaves]
    assert rebuilt == stated


def test_roots_and_snapshot_root_are_the_vectors(vector, trees):
    stated = json.loads(vector["manifest"])
    assert [tree.entry.as_dict() for tree in trees] == stated["assets"]
    assert merkle_root(jcs(tree.entry.as_dict()) for tree in trees).hex() == stated["snapshot_root"]


def test_second_manifest_and_signature_are_the_vectors(vector, signed):
    assert signed.data.decode() == vector["manifest"]
    assert signed.signature.hex() == vector["signature_hex"]
    assert signed.key_id == vector["key_id"]


def test_first_manifest_and_signature_are_the_vectors(vector, keys):
    text = vector["day0"]["manifest"]
    manifest = _rebuild(text, parse_manifest(text.encode()).assets)
    signed = sign_manifest(manifest, keys.manifest_signer())
    assert signed.data.decode() == text
    assert signed.signature.hex() == vector["day0"]["signature_hex"]
    assert verify_manifest(signed, bytes.fromhex(vector["manifest_key_hex"])) == manifest


def test_public_keys_and_ids_are_the_vectors(vector, keys):
    public = keys.manifest_signer().public_key
    assert (public.hex(), key_id(public)) == (vector["manifest_key_hex"], vector["key_id"])
    exchange = vector["header"]["exchange"]
    assert make_vkey_text(origin_of(exchange), keys.checkpoint_signer().public_key) == vector["checkpoint_vkey"]
    published = published_keys_text(keys, exchange)
    assert published == f"{vector['manifest_key_hex']}\n{vector['checkpoint_vkey']}\n"
    assert parse_published_keys(published).checkpoint_key == parse_vkey(vector["checkpoint_vkey"])


def test_both_checkpoints_are_the_vectors(vector, keys):
    leaves = [vector["day0"]["manifest"].encode(), vector["manifest"].encode()]
    for size in (1, 2):
        stated = vector[f"checkpoint_size_{size}"]
        root = merkle_root(leaves[:size])
        assert sign_checkpoint(vector["header"]["exchange"], size, root, keys.checkpoint_signer()) == stated
        assert verify_checkpoint(stated, parse_vkey(vector["checkpoint_vkey"])).root == root


def test_the_three_proofs_are_the_vectors(vector, ring, trees, signed):
    hashes = [leaf_hash(vector["day0"]["manifest"].encode()), leaf_hash(signed.data)]
    log = LogProof(1, 2, tuple(inclusion_proof(hashes, 1)), vector["checkpoint_size_2"])
    for stated in vector["proofs"]:
        proof = build_proof(stated["account"], ring=ring, trees=trees, signed=signed, log=log)
        assert proof_text(proof) == json.dumps(stated)


def test_proof_text_is_the_vectors_raw_text(vector):
    truncated = next(one["text"] for one in vector["must_fail_raw"] if one["why"] == "truncated file")
    assert proof_text(vector["proofs"][0]).startswith(truncated)


def test_shard_record_is_the_vectors(vector, header, ring):
    stated = vector["shard"]
    key, size = ring.user_key(stated["account"]), stated["record_size"]
    record = seal_record(key, header.ctx, stated["plaintext"].encode(), size)
    assert shard_id(stated["account"]) == stated["shard_id"]
    assert hashlib.sha256(record).hexdigest() == stated["record_sha256"]
    assert record[:16].hex() == stated["locator_hex"]
    assert record[16:32].hex() == stated["nonce_hex"]
    assert record[-32:].hex() == stated["tag_hex"]
    assert open_record(key, header.ctx, record) == stated["plaintext"].encode()
    other = seal_record(ring.user_key("acct-0002"), header.ctx, b"other", size)
    assert find_record(join_shard([record, other]), size, key, header.ctx) == record


def test_manifests_that_must_fail_are_refused(vector):
    """Those of the must-fail proofs whose fault lies in the manifest, its signature, its key id or the checkpoint."""
    good = vector["proofs"][0]
    public, vkey = bytes.fromhex(vector["manifest_key_hex"]), parse_vkey(vector["checkpoint_vkey"])
    refused = []

    def both(signed, checkpoint):
        verify_manifest(signed, public)
        verify_checkpoint(checkpoint, vkey)

    for case in vector["must_fail"]:
        proof = case["proof"]
        same = all(proof.get(key) == good[key] for key in ("manifest", "signature", "key_id"))
        if same and proof["log"]["checkpoint"] == good["log"]["checkpoint"]:
            continue
        if "day before" in case["why"]:
            continue  # a valid manifest, but not that of the proof's log index
        signed = SignedManifest(proof["manifest"].encode(), bytes.fromhex(proof["signature"]), proof["key_id"])
        with pytest.raises((ManifestError, SignatureError)):
            both(signed, proof["log"]["checkpoint"])
        refused.append(case["why"])
    assert len(refused) == 12, refused


def test_vector_keys_are_refused_under_any_name(keys):
    with pytest.raises(ConfigError):
        refuse_public_keys(keys)
    assert parse_keys(keys_text(keys), where="test").public


def test_checkpoint_of_another_key_is_refused(vector, keys):
    text = vector["checkpoint_size_1"]
    stranger = parse_vkey(make_vkey_text("example.exchange/por", keys.manifest_signer().public_key))
    with pytest.raises(ComplineError, match="no signature by"):
        verify_checkpoint(text, stranger)
    assert parse_checkpoint(text).checkpoint.size == 1
