"""The proof file of one account: what a customer needs to see their balance in the published totals.

What belongs here: building the file and the record in a shard. Source: RESERVES.md, Files.
What does not: verifying it, which outsiders do with a file of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError
from engine.reserves.fields import FormatError, check_account
from engine.reserves.header import VERSION
from engine.reserves.keys import KeyRing, leaf_secret
from engine.reserves.leaves import leaf_digest, leaf_tag
from engine.reserves.manifest import SignedManifest, parse_manifest
from engine.reserves.tree import AssetTree, climb, sum_path


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


def build_proof(
    account: str, *, ring: KeyRing, trees: Sequence[AssetTree], signed: SignedManifest, log: LogProof
) -> dict[str, Any]:
    """The proof file's object, keys in the published order.

    Args:
        account: whose.
        ring: the exchange's keys.
        trees: every asset's tree of the day, with levels.
        signed: the day's signed manifest.
        log: its place in the log.

    Raises:
        InputError: the account has no balance in any tree.
        FormatError: trees, manifest and log are not of one day.
    """
    check_account(account, where="proof")
    manifest = parse_manifest(signed.data)
    if log.index != manifest.header.seq or ring.exchange != manifest.header.exchange:
        raise FormatError(f"proof for {account}: another log index or exchange", rule="log.index is the manifest's seq")
    statement: list[dict[str, Any]] = []
    chunks: list[dict[str, Any]] = []
    for tree in sorted(trees, key=lambda one: one.entry.asset):
        if tree.ctx != manifest.header.ctx or manifest.asset_entry(tree.entry.asset) != tree.entry:
            raise FormatError(f"proof for {account}: the {tree.entry.asset} tree is not the manifest's")
        if (account, 0) in tree.positions:
            parts = _chunks(account, ring, tree)
            statement.append({"asset": tree.entry.asset, "amount": str(sum(int(one["amount"]) for one in parts))})
            chunks += parts
    if not statement:
        raise InputError(
            f"account {account} has no balance on {manifest.header.close_date}",
            rule="an account whose totals are 0 has no leaf",
            next_step="check the account's name as printed on the statement page",
        )
    return {
        "v": VERSION,
        "account": account,
        "key_epoch": ring.key_epoch,
        "statement": statement,
        "chunks": chunks,
        "manifest": signed.data.decode("utf-8"),
        "signature": signed.signature.hex(),
        "key_id": signed.key_id,
        "log": log.as_dict(),
    }


def _chunks(account: str, ring: KeyRing, tree: AssetTree) -> list[dict[str, Any]]:
    if not tree.levels:
        raise FormatError(f"the {tree.entry.asset} tree was built without levels", next_step="build with keep_levels")
    secret = leaf_secret(ring.user_key(account), tree.ctx, tree.entry.asset)
    parts = []
    for chunk in range(tree.chunks):
        index = tree.positions[account, chunk]
        amount, path = tree.levels[0][index][1], sum_path(tree.levels, index)
        leaf = leaf_digest(leaf_tag(secret, chunk, account), amount)
        if climb((leaf, amount), index, path) != (bytes.fromhex(tree.entry.root), tree.entry.total):
            raise FormatError(f"{tree.entry.asset}, {account}, chunk {chunk}: the path does not end at the root")
        parts.append(
            {
                "asset": tree.entry.asset,
                "chunk": chunk,
                "amount": str(amount),
                "leaf_secret": secret.hex(),
                "index": index,
                "path": [[digest.hex(), str(total)] for digest, total in path],
            }
        )
    return parts


def proof_text(proof: dict[str, Any]) -> str:
    """The text of `proof-<account>.json`."""
    return json.dumps(proof)


def proof_record(proof: dict[str, Any]) -> bytes:
    """The record that a shard seals: the proof file without the manifest, which is shared."""
    return json.dumps({key: value for key, value in proof.items() if key != "manifest"}).encode("ascii")
