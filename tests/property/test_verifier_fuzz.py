"""Whatever is done to a good file, it is refused or is not another answer than the good file's."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.reserves.verifier import compline_verify
from tests.fixtures.proof_files import pack_entries, pack_zip, small_log

LOG = small_log()
GOOD = LOG.proof("acct-1", 1)
TEXT = json.dumps(GOOD).encode()
PACK = pack_zip(pack_entries(LOG, 1))
KEYS = compline_verify.read_keys(LOG.key_file().encode())
CHECKPOINT = compline_verify.read_checkpoint(LOG.checkpoints[2], "checkpoint")
TRUST = compline_verify.Trust(KEYS, [CHECKPOINT], [])


def _accepted(data):
    """What the verifier takes from a file, or None where it refuses; any other exception is a defect."""
    try:
        proof = compline_verify.check_proof(compline_verify.strict_json(data, "file"), TRUST)
    except compline_verify.ProofError:
        return None
    assert proof.anchored
    return proof.account, proof.statement, proof.manifest.data


TRUTH = _accepted(TEXT)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_says_the_same(at, flip):
    """White space, `key_epoch` and cosignatures are the only bytes that may change; nothing that is said may."""
    changed = TEXT[:at] + bytes([TEXT[at] ^ flip]) + TEXT[at + 1 :]
    assert _accepted(changed) in (None, TRUTH)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cut_and_pasted_bytes_are_refused_or_say_the_same(data):
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(TEXT)), st.integers(0, len(TEXT)))))
    at = data.draw(st.integers(0, len(TEXT)))
    changed = data.draw(st.sampled_from([TEXT[:start] + TEXT[end:], TEXT[:at] + TEXT[start:end] + TEXT[at:]]))
    assert _accepted(changed) in (None, TRUTH)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 2**64),
    st.text(max_size=5),
    st.sampled_from(["0", "00" * 32, str(2**127)]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def _spots(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _spots(inner, (*path, key))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from([path for path in _spots(GOOD) if path]), VALUES)
def test_a_changed_value_is_refused_or_says_the_same(path, value):
    proof = json.loads(TEXT)
    spot = proof
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    assert _accepted(json.dumps(proof).encode()) in (None, TRUTH)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(PACK) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_pack_is_refused_or_says_the_same(tmp_path_factory, at, flip):
    """Times and attributes of a zip's entries are not checked; what is in them is."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    path.write_bytes(PACK[:at] + bytes([PACK[at] ^ flip]) + PACK[at + 1 :])
    try:
        manifest, anchored = compline_verify.check_pack(str(path), TRUST, compline_verify.Answer())
    except compline_verify.ProofError:
        return
    assert anchored
    assert manifest.data == LOG.leaves[1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_are_refused_and_nothing_worse(data):
    assert _accepted(data) is None
    for read in (compline_verify.read_keys, compline_verify.read_link, compline_verify.read_manifest):
        with pytest.raises(compline_verify.ProofError):
            read(data)
    with pytest.raises(compline_verify.ProofError):
        compline_verify.read_checkpoint(data.decode("utf-8", "replace"), "checkpoint")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_log_proofs_hold_for_every_size_and_no_neighbour(size, data):
    from engine.reserves.merkle import consistency_proof, inclusion_proof, root_of_hashes

    hashes = [compline_verify.sha256(bytes([one])) for one in range(size)]
    index, size1 = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root, root1 = root_of_hashes(hashes), root_of_hashes(hashes[:size1])
    path, link = inclusion_proof(hashes, index), consistency_proof(hashes, size1)
    compline_verify.verify_inclusion(hashes[index], index, size, path, root)
    compline_verify.verify_consistency(size1, root1, size, root, link)
    with pytest.raises(compline_verify.ProofError):
        compline_verify.verify_inclusion(hashes[index], (index + 1) % (size + 1), size, path, root)
    with pytest.raises(compline_verify.ProofError):
        compline_verify.verify_consistency(size1, root1, size, root, [*link, root])
