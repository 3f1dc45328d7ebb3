"""What holds for all balances, logs and records."""

import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.money import MAX_UNITS
from engine.reserves.keys import KeyRing, derive_demo_keys, hkdf, keyed_hmac
from engine.reserves.leaves import split_amount
from engine.reserves.merkle import (
    MerkleProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of_hashes,
    verify_consistency,
    verify_inclusion,
)
from engine.reserves.shard import ShardError, open_record, record_size, seal_record
from engine.reserves.tree import TreePolicy, build_asset_tree, climb, sum_path

KEYS = derive_demo_keys(7)
RING = KeyRing(KEYS.reserve, "property.exchange")
CTX = bytes(range(32))

accounts = st.text("abcdefgh0123456789-", min_size=1, max_size=12)
balances = st.dictionaries(accounts, st.integers(0, MAX_UNITS // 8), min_size=1, max_size=7)


def _tree(rows, *, chunks=2):
    policy = TreePolicy(chunks, (2, 3, 4, 5))
    total = sum(amount for _, amount in rows)
    return build_asset_tree("BTC", 8, rows, ctx=CTX, ring=RING, control_total=total, policy=policy, keep_levels=True)


@given(balances, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = list(rows.items())
    random.shuffle(shuffled)
    assert _tree(shuffled) == _tree(list(rows.items()))


@given(balances, st.data())
@settings(max_examples=60, deadline=None)
def test_any_single_change_of_one_amount_changes_the_root(rows, data):
    account = data.draw(st.sampled_from(sorted(rows)))
    changed = {**rows, account: data.draw(st.integers(0, MAX_UNITS // 8).filter(lambda n: n != rows[account]))}
    assert _tree(list(rows.items())).entry.root != _tree(list(changed.items())).entry.root


@given(balances, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_leaf_climbs_to_root_and_total(rows, chunks):
    tree = _tree(list(rows.items()), chunks=chunks)
    for index, leaf in enumerate(tree.levels[0]):
        assert climb(leaf, index, sum_path(tree.levels, index)) == (bytes.fromhex(tree.entry.root), tree.entry.total)
    for account, amount in rows.items():
        parts = [tree.levels[0][tree.positions[account, n]][1] for n in range(chunks) if amount]
        assert sum(parts) == amount


@given(st.integers(0, MAX_UNITS), st.integers(1, 64), accounts)
def test_chunks_add_up_to_the_amount(amount, chunks, account):
    parts = split_amount(amount, account, chunks, keyed_hmac(CTX))
    assert len(parts) == chunks
    assert sum(parts) == amount
    assert min(parts) >= 0


@given(st.binary(max_size=64), st.binary(max_size=200))
def test_keyed_hmac_is_hmac(key, message):
    assert keyed_hmac(key)(message) == hmac.digest(key, message, "sha256")


def test_hkdf_is_rfc5869s_first_test_case():
    okm = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


HASHES = [leaf_hash(bytes([n])) for n in range(70)]
ROOTS = [root_of_hashes(HASHES[:size]) for size in range(71)]


def _flipped(hashes, at):
    changed = list(hashes)
    changed[at] = bytes([changed[at][0] ^ 1]) + changed[at][1:]
    return changed


@pytest.mark.parametrize("size", range(1, 71))
def test_inclusion_proofs_verify_and_fail_after_a_flipped_bit(size):
    for index in range(size):
        proof = inclusion_proof(HASHES[:size], index)
        verify_inclusion(HASHES[index], index, size, proof, ROOTS[size])
        bad = [_flipped(proof, at) for at in range(len(proof))] + [[*proof, HASHES[0]], proof[:-1] if proof else [b""]]
        for one in bad:
            with pytest.raises(MerkleProofError):
                verify_inclusion(HASHES[index], index, size, one, ROOTS[size])
        with pytest.raises(MerkleProofError):
            verify_inclusion(HASHES[index], (index + 1) % size if size > 1 else 1, size, proof, ROOTS[size])


@pytest.mark.parametrize("size", range(2, 71))
def test_consistency_proofs_verify_and_fail_after_a_flipped_bit(size):
    for earlier in range(1, size):
        proof = consistency_proof(HASHES[:size], earlier)
        verify_consistency(earlier, ROOTS[earlier], size, ROOTS[size], proof)
        bad = [_flipped(proof, at) for at in range(len(proof))] + [[*proof, HASHES[0]], proof[:-1]]
        for one in bad:
            with pytest.raises(MerkleProofError):
                verify_consistency(earlier, ROOTS[earlier], size, ROOTS[size], one)
        for wrong1, wrong2 in ((ROOTS[size], ROOTS[size]), (ROOTS[earlier], ROOTS[earlier])):
            with pytest.raises(MerkleProofError):
                verify_consistency(earlier, wrong1, size, wrong2, proof)


@given(st.binary(max_size=5000), st.data())
@settings(max_examples=60, deadline=None)
def test_records_open_and_refuse_every_flipped_bit(plaintext, data):
    key, size = RING.user_key("user-1"), record_size(5000)
    record = seal_record(key, CTX, plaintext, size)
    assert len(record) == size + 64
    assert open_record(key, CTX, record) == plaintext
    at = data.draw(st.integers(0, len(record) - 1))
    changed = record[:at] + bytes([record[at] ^ (1 << data.draw(st.integers(0, 7)))]) + record[at + 1 :]
    with pytest.raises(ShardError):
        open_record(key, CTX, changed)
    with pytest.raises(ShardError):
        open_record(RING.user_key("user-2"), CTX, record)
