"""A day's liability trees built and stored, from text, by whoever is quickest.

What belongs here: the choice of the builder, and the plain one.
What does not: trees by kernels (see `arena_builder`), what a leaf or node is (see `leaves`, `tree`), and where rows
come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from engine.reserves.arena import folder_of, store_tree
from engine.reserves.arena_builder import ArenaBuilder, BuiltTree, Timings
from engine.reserves.holdings import blocks_of
from engine.reserves.kernels.sha256 import BlockFunction
from engine.reserves.keys import KeyRing
from engine.reserves.tree import TreePolicy, build_asset_tree

_SMALL = 1 << 13


class TreeKernel(StrEnum):
    """Who builds trees; all give the same bytes."""

    AUTO = "auto"
    LIBCRYPTO = "libcrypto"
    NUMBA = "numba"
    HASHLIB = "hashlib"


def build_trees(
    trees: Path,
    blocks: Iterable[bytes | memoryview],
    assets: Mapping[int, tuple[str, int]],
    *,
    holdings: int,
    control_totals: Mapping[str, int],
    ctx: bytes,
    ring: KeyRing,
    policy: TreePolicy,
    kernel: TreeKernel = TreeKernel.AUTO,
    timings: Timings | None = None,
) -> list[BuiltTree]:
    """Build and store a day's trees from text, by whoever is quickest unless one is asked for.

    Args:
        trees: folder that the assets' folders lie in.
        blocks: text of `account TAB asset number TAB units LF`, ascending, in any pieces.
        assets: asset number -> (name, decimals).
        holdings: about how many lines there are; below some thousands, kernels cost more than they save.
        control_totals: asset -> the ledger's total of class customer, in smallest units.
        ctx: `Header.ctx` of the day.
        ring: the exchange's keys.
        policy: chunks and heights.
        kernel: who builds.
        timings: gets the parts' seconds.

    Raises:
        ControlTotalError: an asset's balances add up to something else.
        LeafError: lines out of order or malformed, or too many leaves for the policy.
    """
    if kernel == TreeKernel.HASHLIB or (kernel == TreeKernel.AUTO and holdings < _SMALL):
        return _build_plainly(trees, blocks, assets, control_totals, ctx, ring, policy)
    block = None if kernel == TreeKernel.AUTO else BlockFunction(kernel.value)
    with ArenaBuilder(trees, assets, ctx=ctx, ring=ring, policy=policy, block=block) as builder:
        for one in blocks_of(blocks):
            builder.add(one)
        built = builder.finish(control_totals)
        if timings is not None:
            timings.seconds.update(builder.timings.seconds)
        return built


def _build_plainly(
    trees: Path,
    blocks: Iterable[bytes | memoryview],
    assets: Mapping[int, tuple[str, int]],
    control_totals: Mapping[str, int],
    ctx: bytes,
    ring: KeyRing,
    policy: TreePolicy,
) -> list[BuiltTree]:
    held: dict[str, list[tuple[str, int]]] = {}
    for line in b"".join(bytes(one) for one in blocks).decode("ascii").splitlines():
        account, number, units = line.split("\t")
        held.setdefault(assets[int(number)][0], []).append((account, int(units)))
    places = dict(assets.values())
    built = []
    for asset in sorted(control_totals.keys() | held.keys()):
        tree = build_asset_tree(
            asset,
            places[asset],
            held.get(asset, []),
            ctx=ctx,
            ring=ring,
            control_total=control_totals.get(asset, 0),
            policy=policy,
            keep_levels=True,
        )
        accounts = len({account for account, _ in tree.positions})
        if accounts:
            store_tree(folder_of(trees, asset), tree)
            built.append(BuiltTree(tree.entry, accounts))
    return built
