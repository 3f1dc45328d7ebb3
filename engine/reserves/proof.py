"""The proof file of one account: what a customer needs to see their balance in the published totals.

What belongs here: building the file and the record in a shard. Source: RESERVES.md, Files.
What does not: verifying it, which outsiders do with a file of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import InputError
from engine.reserves.entries import AssetEntry
from engine.reserves.fields import FormatError, check_account
from engine.reserves.header import VERSION
from engine.reserves.keys import KeyRing, leaf_secret
from engine.reserves.leaves import leaf_digest, leaf_tag
from engine.reserves.manifest import SignedManifest, parse_manifest
from engine.reserves.tree import Level, climb


@dataclass(frozen=True)
class LogProof:
    """Where the manifest stands in the log: inclusion hashes (32 bytes each) under the checkpoint of `size`."""

    index: int
    size: int
    hashes: tuple[bytes, ...]
    checkpoint: str

    def as_dict(self) -> dict[str, Any]:
        """The `log` object of a proof file."""
        return {
            "index": self.index,
            "size": self.size,
            "hashes": [one.hex() for one in self.hashes],
            "checkpoint": self.checkpoint,
        }


class ProofTree(Protocol):
    """One asset's tree as proofs read it: in memory or stored."""

    @property
    def entry(self) -> AssetEntry:
        """What the manifest carries."""

    @property
    def ctx(self) -> bytes:
        """The day that the tree is of."""

    def indices(self, account: str) -> list[int]:
        """The leaves of an account, one a chunk; none where it has none in this tree."""

    def leaf(self, index: int) -> tuple[bytes, int]:
        """Digest and amount of a leaf."""

    def path(self, index: int) -> Level:
        """The siblings of a leaf from the bottom up."""


def build_proof(
    account: str,
    *,
    ring: KeyRing,
    trees: Sequence[ProofTree],
    signed: SignedManifest,
    log: LogProof,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """The proof file's object, keys in the published order.

    Args:
        account: whose.
        ring: the exchange's keys.
        trees: every asset's tree of the day, stored or built with levels.
        signed: the day's signed manifest.
        log: its place in the log.
        may_be_empty: a day without a balance is stated too, as a history needs it.

    Raises:
        InputError: the account has no balance in any tree.
        FormatError: trees, manifest and log are not of one day.
    """
    check_account(account, where="proof")
    manifest = parse_manifest(signed.data)
    if log.index != manifest.header.seq or ring.exchange != manifest.header.exchange:
        raise FormatError(f"proof for {account}: another log index or exchange", rule="log.index is the manifest's seq")
    for tree in trees:
        if tree.ctx != manifest.header.ctx or manifest.asset_entry(tree.entry.asset) != tree.entry:
            raise FormatError(f"proof for {account}: the {tree.entry.asset} tree is not the manifest's")
    record = build_record(
        account, ring=ring, trees=trees, signature=signed.signature.hex(), key_id=signed.key_id, log=log
    )
    if not record["statement"] and not may_be_empty:
        raise InputError(
            f"account {account} has no balance on {manifest.header.close_date}",
            rule="an account whose totals are 0 has no leaf",
            next_step="check the account's name as printed on the statement page",
        )
    order = ("v", "account", "key_epoch", "statement", "chunks", "manifest", "signature", "key_id", "log")
    whole = {**record, "manifest": signed.data.decode("utf-8")}
    return {key: whole[key] for key in order}


def build_record(
    account: str, *, ring: KeyRing, trees: Sequence[ProofTree], signature: str, key_id: str, log: LogProof
) -> dict[str, Any]:
    """The proof file's object without the manifest, for trees that are known to be the manifest's."""
    statement: list[dict[str, Any]] = []
    chunks: list[dict[str, Any]] = []
    for tree in sorted(trees, key=lambda one: one.entry.asset):
        if parts := _chunks(account, ring, tree):
            statement.append({"asset": tree.entry.asset, "amount": str(sum(int(one["amount"]) for one in parts))})
            chunks += parts
    return {
        "v": VERSION,
        "account": account,
        "key_epoch": ring.key_epoch,
        "statement": statement,
        "chunks": chunks,
        "signature": signature,
        "key_id": key_id,
        "log": log.as_dict(),
    }


def _chunks(account: str, ring: KeyRing, tree: ProofTree) -> list[dict[str, Any]]:
    secret = leaf_secret(ring.user_key(account), tree.ctx, tree.entry.asset)
    parts = []
    for chunk, index in enumerate(tree.indices(account)):
        (digest, amount), path = tree.leaf(index), tree.path(index)
        if leaf_digest(leaf_tag(secret, chunk, account), amount) != digest:
            raise FormatError(
                f"{tree.entry.asset}, {account}, chunk {chunk}: the leaf is not this account's",
                rule="a leaf's tag comes from the master key of its own day",
                next_step="use the key file that the day was sealed with; rotations keep it beside the new one",
            )
        if climb((digest, amount), index, path) != (bytes.fromhex(tree.entry.root), tree.entry.total):
            raise FormatError(f"{tree.entry.asset}, {account}, chunk {chunk}: the path does not end at the root")
        parts.append(
            {
                "asset": tree.entry.asset,
                "chunk": chunk,
                "amount": str(amount),
                "leaf_secret": secret.hex(),
                "index": index,
                "path": [[sibling.hex(), str(total)] for sibling, total in path],
            }
        )
    return parts


def proof_text(proof: dict[str, Any]) -> str:
    """The text of `proof-<account>.json`."""
    return json.dumps(proof)


def proof_record(proof: dict[str, Any]) -> bytes:
    """The record that a shard seals: the proof file without the manifest, which is shared."""
    return json.dumps({key: value for key, value in proof.items() if key != "manifest"}).encode("ascii")


def record_frame(
    key_epoch: int, signature: str, key_id: str, log: LogProof
) -> tuple[tuple[bytes, bytes], bytes, bytes]:
    """What every record of a day has alike: around the account, between statement and chunks, and behind them."""
    last = json.dumps({"signature": signature, "key_id": key_id, "log": log.as_dict()}).encode("ascii")
    before = b'{"v": "%s", "account": "' % VERSION.encode("ascii")
    return (before, b'", "key_epoch": %d, "statement": [' % key_epoch), b'], "chunks": [', b"], " + last[1:]
