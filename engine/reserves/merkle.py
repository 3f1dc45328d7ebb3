"""RFC 6962 Merkle trees: roots, inclusion and consistency proofs in RFC 9162 order, and their verification.

What belongs here: the plain tree over byte strings that the log, `snapshot_root` and `reserves_root` are.
What does not: the sum trees of balances (see `tree`), and where the log is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from engine.errors import GateError

EMPTY_ROOT = hashlib.sha256(b"").digest()


class MerkleProofError(GateError):
    """An inclusion or consistency proof does not hold."""


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaves' bytes; of none, the hash of nothing."""
    return root_of_hashes([leaf_hash(leaf) for leaf in leaves])


def root_of_hashes(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes.

    Pairing level by level and carrying an odd last node up gives the RFC's tree, its left part a full power of two.
    """
    level = list(hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        pairs = zip(level[0::2], level[1::2], strict=False)
        level = [node_hash(left, right) for left, right in pairs] + odd
    return level[0]


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The path of leaf `index`, from the leaf upwards (RFC 9162, 2.1.3.1).

    Args:
        hashes: every leaf hash, in order.
        index: from 0.

    Raises:
        ValueError: the index is not that of a leaf.
    """
    if not 0 <= index < len(hashes):
        raise ValueError(f"index {index} of {len(hashes)} leaves")
    if len(hashes) == 1:
        return []
    split = _largest_power_below(len(hashes))
    if index < split:
        return [*inclusion_proof(hashes[:split], index), root_of_hashes(hashes[split:])]
    return [*inclusion_proof(hashes[split:], index - split), root_of_hashes(hashes[:split])]


def consistency_proof(hashes: Sequence[bytes], size1: int) -> list[bytes]:
    """The proof that the tree of `size1` is a prefix of this one (RFC 9162, 2.1.4.1).

    Args:
        hashes: every leaf hash of the later tree, in order.
        size1: leaves of the earlier tree, at least 1.

    Raises:
        ValueError: the earlier size is none of this tree's.
    """
    if not 0 < size1 <= len(hashes):
        raise ValueError(f"earlier size {size1} of {len(hashes)} leaves")
    return _subproof(hashes, size1, complete=True)


def _subproof(hashes: Sequence[bytes], size1: int, *, complete: bool) -> list[bytes]:
    if size1 == len(hashes):
        return [] if complete else [root_of_hashes(hashes)]
    split = _largest_power_below(len(hashes))
    if size1 <= split:
        return [*_subproof(hashes[:split], size1, complete=complete), root_of_hashes(hashes[split:])]
    return [*_subproof(hashes[split:], size1 - split, complete=False), root_of_hashes(hashes[:split])]


def _largest_power_below(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash is at `index` of the tree with this root (RFC 9162, 2.1.3.2).

    Raises:
        MerkleProofError: it is not shown to be.
    """
    if not 0 <= index < size:
        raise MerkleProofError(f"inclusion proof: index {index} of {size} leaves", rule="0 <= index < size")
    _check_widths([leaf, *proof], "inclusion proof")
    node, last, digest = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise MerkleProofError("inclusion proof: too many hashes", rule="one hash per level that has a sibling")
        if node & 1 or node == last:
            digest = node_hash(step, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = node_hash(digest, step)
        node, last = node >> 1, last >> 1
    if last:
        raise MerkleProofError("inclusion proof: too few hashes", rule="one hash per level that has a sibling")
    if digest != root:
        raise MerkleProofError("inclusion proof: it ends at another root", rule="the path climbs to the root")


def verify_consistency(size1: int, root1: bytes, size2: int, root2: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of size1 is a prefix of the tree of size2 (RFC 9162, 2.1.4.2).

    Raises:
        MerkleProofError: it is not shown to be. An empty earlier tree can't be shown to be anything.
    """
    if size1 == size2 and size1 >= 0:
        if proof or root1 != root2:
            raise MerkleProofError("consistency proof: same size", rule="same size: no hashes, and the same root")
        return
    if not 0 < size1 < size2 or not proof:
        raise MerkleProofError(
            f"consistency proof: sizes {size1} and {size2}, {len(proof)} hashes", rule="0 < earlier < later size"
        )
    _check_widths([root1, *proof], "consistency proof")
    steps = list(proof) if size1 & (size1 - 1) else [root1, *proof]
    found1, found2 = _climb_both(size1, size2, steps)
    if found1 != root1:
        raise MerkleProofError("consistency proof: it ends at another earlier root", rule="both roots are reached")
    if found2 != root2:
        raise MerkleProofError("consistency proof: it ends at another later root", rule="both roots are reached")


def _climb_both(size1: int, size2: int, steps: Sequence[bytes]) -> tuple[bytes, bytes]:
    node, last = size1 - 1, size2 - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    digest1 = digest2 = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise MerkleProofError("consistency proof: too many hashes", rule="as many hashes as the sizes need")
        if node & 1 or node == last:
            digest1, digest2 = node_hash(step, digest1), node_hash(step, digest2)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest2 = node_hash(digest2, step)
        node, last = node >> 1, last >> 1
    if last:
        raise MerkleProofError("consistency proof: too few hashes", rule="as many hashes as the sizes need")
    return digest1, digest2


def _check_widths(hashes: Iterable[bytes], where: str) -> None:
    if any(len(one) != 32 for one in hashes):
        raise MerkleProofError(f"{where}: a hash is not 32 bytes", rule="SHA-256 throughout")
