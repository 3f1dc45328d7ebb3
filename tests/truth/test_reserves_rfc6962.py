"""The plain Merkle tree against outside vectors and against pymerkle."""

import base64
import json
from pathlib import Path

import pytest
from pymerkle import InmemoryTree

from engine.reserves.merkle import (
    MerkleProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    merkle_root,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "rfc6962"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"outside truth is absent: {VECTORS}")


def _cases(kind):
    return sorted(VECTORS.glob(f"{kind}-*/*.json")) if VECTORS.is_dir() else []


def _bytes(text):
    return base64.b64decode(text)


@needs_vectors
def test_reference_roots_hold():
    reference = json.loads((VECTORS / "reference_leaves_roots.json").read_text())
    leaves = [bytes.fromhex(leaf) for leaf in reference["leaf_inputs_hex"]]
    assert [merkle_root(leaves[:size]).hex() for size in range(9)] == reference["root_by_size_hex"]


@needs_vectors
@pytest.mark.parametrize("path", _cases("inclusion"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_inclusion_vectors_are_judged_alike(path):
    case = json.loads(path.read_text())
    proof = [_bytes(step) for step in case["proof"] or []]

    def verify():
        verify_inclusion(_bytes(case["leafHash"]), case["leafIdx"], case["treeSize"], proof, _bytes(case["root"]))

    _judge(verify, case["wantErr"])


@needs_vectors
@pytest.mark.parametrize("path", _cases("consistency"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_consistency_vectors_are_judged_alike(path):
    case = json.loads(path.read_text())
    proof = [_bytes(step) for step in case["proof"] or []]

    def verify():
        verify_consistency(case["size1"], _bytes(case["root1"]), case["size2"], _bytes(case["root2"]), proof)

    _judge(verify, case["wantErr"])


def _judge(verify, refused):
    if refused:
        with pytest.raises(MerkleProofError):
            verify()
    else:
        verify()


@needs_vectors
def test_happy_paths_are_rebuilt_by_our_prover():
    reference = json.loads((VECTORS / "reference_leaves_roots.json").read_text())
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in reference["leaf_inputs_hex"]]
    inclusion = json.loads((VECTORS / "inclusion-1" / "happy-path.json").read_text())
    consistency = json.loads((VECTORS / "consistency-1" / "happy-path.json").read_text())
    index, size1 = inclusion["leafIdx"], consistency["size1"]
    assert inclusion_proof(hashes, index) == [_bytes(step) for step in inclusion["proof"]]
    assert consistency_proof(hashes, size1) == [_bytes(step) for step in consistency["proof"]]


def test_roots_equal_pymerkles():
    tree = InmemoryTree(algorithm="sha256")
    leaves = [f"leaf {n}".encode() * (n % 5) for n in range(70)]
    for size, leaf in enumerate(leaves, start=1):
        tree.append_entry(leaf)
        assert tree.get_root() == merkle_root(leaves[:size])


def test_same_size_is_consistent_with_the_same_root_only():
    verify_consistency(0, b"any", 0, b"any", [])
    for size1, root1, size2, root2, proof in [
        (0, b"a", 0, b"b", []),
        (1, b"a", 1, b"a", [b"\0" * 32]),
        (0, b"a", 1, b"a", []),
        (2, b"a", 1, b"a", []),
        (-1, b"a", -1, b"a", []),
    ]:
        with pytest.raises(MerkleProofError):
            verify_consistency(size1, root1, size2, root2, proof)
