"""The sum tree of one asset: node digests that bind both children's sums, the root and the total.

What belongs here: nodes, levels, paths, and the build of one asset's tree from its balances, in plain hashlib.
What does not: leaves and their order (see `leaves`), and the manifest that carries the roots (see `manifest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import GateError
from engine.money import MAX_DECIMALS
from engine.reserves.entries import AssetEntry
from engine.reserves.fields import MAX_HEIGHT, FormatError, check_amount, check_asset, check_integer, u128
from engine.reserves.keys import KeyRing
from engine.reserves.leaves import LeafError, leaf_digest, live_leaves, place_leaves

Level = list[tuple[bytes, int]]
"""One level of a tree from left to right: (digest, sum in smallest units)."""


class ControlTotalError(GateError):
    """A tree's total is not the ledger's control total of class customer."""


@dataclass(frozen=True)
class TreePolicy:
    """How trees are built; verifiers don't need it.

    Args:
        chunks: leaves per account and asset.
        heights: allowed heights, ascending; the smallest that fits is taken, to blur the user count.
    """

    chunks: int = 2
    heights: tuple[int, ...] = (10, 16, 20, 22, 24, 26)

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.heights, self.heights[1:], strict=False))
        if not self.heights or not rising or not 1 <= self.heights[0] <= self.heights[-1] <= MAX_HEIGHT:
            raise FormatError(f"tree heights {self.heights}", rule=f"ascending heights from 1 to {MAX_HEIGHT}")


@dataclass(frozen=True)
class AssetTree:
    """One asset's tree.

    Args:
        entry: what the manifest carries.
        ctx: the day that the tree is of.
        chunks: leaves per account.
        positions: index of every live leaf by (account, chunk).
        levels: leaves first, root last; empty unless asked for.
    """

    entry: AssetEntry
    ctx: bytes
    chunks: int
    positions: dict[tuple[str, int], int]
    levels: list[Level]

    def indices(self, account: str) -> list[int]:
        """The leaves of an account, one a chunk; none where it has none in this tree."""
        if (account, 0) not in self.positions:
            return []
        return [self.positions[account, chunk] for chunk in range(self.chunks)]

    def leaf(self, index: int) -> tuple[bytes, int]:
        """Digest and amount of a leaf.

        Raises:
            FormatError: the tree was built without levels.
        """
        if not self.levels:
            raise FormatError(f"the {self.entry.asset} tree was built without levels", next_step="keep its levels")
        return self.levels[0][index]

    def path(self, index: int) -> Level:
        """The siblings of a leaf from the bottom up, as a proof file lists them."""
        return sum_path(self.levels, index)


def node_digest(height: int, left: tuple[bytes, int], right: tuple[bytes, int]) -> bytes:
    """The digest of a node `height` levels above the leaves: 98 bytes hashed."""
    body = left[0] + u128(left[1]) + right[0] + u128(right[1])
    return hashlib.sha256(bytes([1, height]) + body).digest()


def next_level(height: int, level: Level) -> Level:
    """The level above; `height` is that of the new level, 1 for the parents of leaves."""
    nodes = iter(level)
    return [(node_digest(height, left, right), left[1] + right[1]) for left, right in zip(nodes, nodes, strict=True)]


def sum_path(levels: Sequence[Level], index: int) -> Level:
    """The siblings of a leaf from the bottom up, as a proof file lists them."""
    return [level[(index >> height) ^ 1] for height, level in enumerate(levels[:-1])]


def climb(leaf: tuple[bytes, int], index: int, path: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
    """The root and total that a path leads to.

    Args:
        leaf: digest and amount.
        index: of the leaf.
        path: siblings from the bottom up.

    Raises:
        FormatError: a sum outside [0, 2^127), or an index that does not fit the path.
    """
    if not 0 <= index < 1 << len(path):
        raise FormatError(f"index {index} under a path of {len(path)}", rule="0 <= index < 2^height")
    node = leaf
    for height, sibling in enumerate(path, start=1):
        check_amount(sibling[1], where=f"level {height}: sibling")
        left, right = (sibling, node) if index >> (height - 1) & 1 else (node, sibling)
        node = (node_digest(height, left, right), check_amount(left[1] + right[1], where=f"level {height}: sum"))
    return node


def tree_height(leaves: int, heights: Sequence[int]) -> int:
    """The smallest allowed height that holds so many leaves.

    Raises:
        LeafError: none does.
    """
    for height in heights:
        if leaves <= 1 << height:
            return height
    raise LeafError(
        f"{leaves} leaves do not fit a tree of height {heights[-1]}",
        rule="the policy's heights hold every live leaf",
        next_step="add a height to the policy",
    )


def check_total(asset: str, total: int, control_total: int) -> None:
    """Refuse balances that are not what the ledger owes.

    Raises:
        ControlTotalError: they add up to something else.
    """
    if total != control_total:
        raise ControlTotalError(
            f"{asset}: the balances add up to {total}, the ledger's control total is {control_total}",
            rule="each tree's total equals the ledger's control total of class customer",
            next_step="compare the balance snapshots with ledger.control_totals; nothing was built",
        )


def build_asset_tree(
    asset: str,
    decimals: int,
    balances: Iterable[tuple[str, int]],
    *,
    ctx: bytes,
    ring: KeyRing,
    control_total: int,
    policy: TreePolicy,
    keep_levels: bool = False,
) -> AssetTree:
    """Commit to every customer's balance in one asset.

    Args:
        asset: the asset's name.
        decimals: of the asset, 0 to 18.
        balances: (account, total in smallest units), each account once, in any order.
        ctx: `Header.ctx` of the day.
        ring: the exchange's keys.
        control_total: the ledger's total of class customer for this asset, in smallest units.
        policy: chunks and heights.
        keep_levels: keep all levels, for paths and dumps.

    Raises:
        ControlTotalError: the balances add up to something else.
        LeafError: an account given twice, or too many leaves for the policy.
        FormatError: a name or amount that the format does not allow.
    """
    check_asset(asset, where="tree")
    check_integer(decimals, 0, MAX_DECIMALS, where=f"{asset}: decimals")
    leaves = live_leaves(balances, asset=asset, ctx=ctx, ring=ring, chunks=policy.chunks)
    total = check_amount(sum(leaf.amount for leaf in leaves), where=f"{asset}: total")
    check_total(asset, total, control_total)
    height = tree_height(len(leaves), policy.heights)
    placed = place_leaves(leaves, height=height, asset=asset, ctx=ctx, ring=ring)
    pairs = zip(placed.tags, placed.amounts, strict=True)
    level: Level = [(leaf_digest(tag, amount), amount) for tag, amount in pairs]
    levels = [level]
    for step in range(1, height + 1):
        level = next_level(step, level)
        if keep_levels:
            levels.append(level)
    entry = AssetEntry(asset, decimals, height, level[0][0].hex(), level[0][1])
    return AssetTree(entry, ctx, policy.chunks, placed.positions, levels if keep_levels else [])
