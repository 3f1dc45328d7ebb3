"""Trees of millions of leaves, built by kernels into files: accounts come in blocks, each block once for all assets.

What belongs here: the way from blocks of accounts to stored trees, its threads and files.
What does not: what a leaf or node is (see `leaves`, `tree`, which give the same bytes), and who builds (see `build`).

A block of accounts has its keys derived once; its leaves in every asset are appended to that asset's file of live
leaves. When the last block is in, each tree gets its height, its order (sort keys in buckets of their first bits, each
sorted by itself), its leaves in their places and its levels. Arrays of the size of a tree are memory-mapped files,
so memory holds a block, some 20 bytes a leaf while it is sorted, and what pages the system keeps. Kernels run without
Python's lock: blocks of accounts, buckets and parts of a level spread over threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.exchange.kernels.jit import Array
from engine.reserves.arena import NODE_BYTES, ArenaFiles, folder_of
from engine.reserves.entries import AssetEntry
from engine.reserves.fields import check_amount, check_asset, u64
from engine.reserves.holdings import AccountBlock
from engine.reserves.kernels import leaves as leaf_kernels
from engine.reserves.kernels import nodes as node_kernels
from engine.reserves.kernels.sha256 import BlockFunction, block_address, new_scratch
from engine.reserves.keys import KeyRing, hmac_sha256
from engine.reserves.tree import TreePolicy, check_total, tree_height

BUCKET_LEAVES = 1 << 15


@dataclass
class Timings:
    """Seconds of a build by part: `keys` (users' keys, secrets, tags), `order`, `tree` (leaves, levels), `write`.

    Levels and positions are computed in mapped files, whose pages reach the disk when the system likes: `write` is
    leaves, names and the room for those files.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0) + time.perf_counter() - started


@dataclass
class _Growing:
    """One asset while blocks come in."""

    asset: str
    decimals: int
    files: ArenaFiles
    label: Array
    split: Array
    total: int = 0
    accounts: int = 0


@dataclass(frozen=True)
class BuiltTree:
    """A stored tree's entry, and how many accounts are in it."""

    entry: AssetEntry
    accounts: int


class ArenaBuilder:
    """Builds the trees of a day by kernels.

    Args:
        trees: folder that the assets' folders lie in.
        assets: asset number -> (name, decimals).
        ctx: `Header.ctx` of the day.
        ring: the exchange's keys.
        policy: chunks and heights.
        block: which block function; None for the best there is.
        workers: threads; None for as many as this process may use.
    """

    def __init__(
        self,
        trees: Path,
        assets: Mapping[int, tuple[str, int]],
        *,
        ctx: bytes,
        ring: KeyRing,
        policy: TreePolicy,
        block: BlockFunction | None = None,
        workers: int | None = None,
    ) -> None:
        self._block = block_address(block)
        self._ctx, self._ring, self._policy = ctx, ring, policy
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._workers)
        self._prefix = np.frombuffer(ring.user_info, np.uint8)
        self._prk = self._states(ring.user_prk)
        self._trees = trees
        self._named = dict(assets)
        self._growing: dict[int, _Growing] = {}
        self.timings = Timings()

    def __enter__(self) -> ArenaBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for one in self._growing.values():
            one.files.discard()

    def add(self, block: AccountBlock) -> None:
        """Take a block of accounts, after all blocks of lesser accounts.

        Raises:
            InputError: it has an asset that this build does not know.
        """
        with self.timings.of("keys"):
            keys = np.empty((len(block.names), 16), np.uint32)
            self._spread(
                len(keys), lambda scratch, words, start, end: self._derive(block, keys, scratch, words, start, end)
            )
        for number in np.unique(block.assets):
            self._add_asset(self._of(int(number)), block, keys, block.assets == number)

    def _derive(self, block: AccountBlock, keys: Array, scratch: Array, words: Array, start: int, end: int) -> None:
        leaf_kernels.derive_keys(
            self._block,
            scratch,
            words,
            self._prk,
            self._prefix,
            block.names[start:end],
            block.lengths[start:end],
            keys[start:end],
        )

    def _of(self, number: int) -> _Growing:
        if number not in self._growing:
            if number not in self._named:
                raise InputError(
                    f"balances in asset number {number}, which is none", next_step="settle the listing first"
                )
            asset, decimals = self._named[number]
            check_asset(asset, where="tree")
            name = asset.encode("ascii")
            label = b"por/v1/leaf\0" + self._ctx + bytes([len(name)]) + name
            self._growing[number] = _Growing(
                asset,
                decimals,
                ArenaFiles.create(folder_of(self._trees, asset)),
                np.frombuffer(label, np.uint8),
                self._states(self._ring.split_key(self._ctx, asset)),
            )
        return self._growing[number]

    def _add_asset(self, growing: _Growing, block: AccountBlock, keys: Array, chosen: Array) -> None:
        held = chosen & (block.amounts.any(axis=1))
        rows, amounts = block.owners[held], np.ascontiguousarray(block.amounts[held])
        chunks = self._policy.chunks
        out = np.empty((len(rows) * chunks, NODE_BYTES), np.uint8)

        def part(scratch: Array, words: Array, start: int, end: int) -> None:
            leaf_kernels.make_leaves(
                self._block,
                scratch,
                words,
                keys,
                block.names,
                block.lengths,
                rows[start:end],
                amounts[start:end],
                growing.label,
                growing.split,
                np.zeros((chunks + 1, 2), np.uint64),
                np.zeros(16, np.uint32),
                out[start * chunks : end * chunks],
            )

        with self.timings.of("keys"):
            self._spread(len(rows), part)
        with self.timings.of("write"):
            with open(growing.files.draft / "live", "ab") as live:
                live.write(out.data)
            with open(growing.files.draft / "accounts", "ab") as names:
                names.write(block.names[rows].tobytes())
        growing.accounts += len(rows)
        growing.total += _sum(amounts)

    def finish(self, control_totals: Mapping[str, int]) -> list[BuiltTree]:
        """Build and store the tree of every asset that is held or owed, ascending by asset.

        Args:
            control_totals: asset -> the ledger's total of class customer, in smallest units.

        Raises:
            ControlTotalError: an asset's balances add up to something else.
            LeafError: an asset has more leaves than the policy's heights hold.
        """
        grown = {one.asset: one for one in self._growing.values()}
        for asset in sorted(control_totals.keys() | grown.keys()):
            total = grown[asset].total if asset in grown else 0
            check_total(asset, check_amount(total, where=f"{asset}: total"), control_totals.get(asset, 0))
        return [self._store(grown[asset]) for asset in sorted(grown) if grown[asset].accounts]

    def _store(self, growing: _Growing) -> BuiltTree:
        live_count = growing.accounts * self._policy.chunks
        height = tree_height(live_count, self._policy.heights)
        files = growing.files
        live = np.memmap(files.draft / "live", np.uint8, "r", shape=(live_count, NODE_BYTES))
        with self.timings.of("write"):
            nodes = files.array("nodes", np.dtype(np.uint8), ((2 << height) - 1) * NODE_BYTES).reshape(-1, NODE_BYTES)
            positions = files.array("positions", np.dtype("<u8"), live_count)
        with self.timings.of("order"):
            order = self._order(growing.asset, height)
        with self.timings.of("tree"):
            self._place(growing.asset, order, live, positions, nodes)
            self._climb(nodes, height)
        root = nodes[-1].tobytes()
        entry = AssetEntry(growing.asset, growing.decimals, height, root[:32].hex(), int.from_bytes(root[32:], "big"))
        with self.timings.of("write"):
            del live, nodes, positions
            (files.draft / "live").unlink()
            files.finish(entry, ctx=self._ctx, chunks=self._policy.chunks, accounts=growing.accounts)
        return BuiltTree(entry, growing.accounts)

    def _place(self, asset: str, order: Array, live: Array, positions: Array, nodes: Array) -> None:
        pad = self._states(self._ring.pad_key(self._ctx, asset))

        def put(scratch: Array, words: Array, start: int, end: int) -> None:
            leaf_kernels.place(self._block, scratch, words, pad, order[start:end], live, start, positions, nodes)

        self._spread(len(order), put)

    def _climb(self, nodes: Array, height: int) -> None:
        start, width = 0, 1 << height
        for level in range(1, height + 1):
            children = nodes[start : start + width]
            start, width = start + width, width // 2
            out = nodes[start : start + width]

            def part(
                scratch: Array,
                words: Array,
                first: int,
                end: int,
                level: int = level,
                children: Array = children,
                out: Array = out,
            ) -> None:
                node_kernels.parents(self._block, scratch, words, level, children, out, first, end)

            self._spread(width, part)

    def _order(self, asset: str, height: int) -> Array:
        """The entries of a tree in the order of their sort keys."""
        key = self._ring.shuffle_key(self._ctx, asset)
        states = self._states(key)
        keys = np.empty(1 << height, np.uint64)
        self._spread(
            len(keys),
            lambda scratch, words, start, end: leaf_kernels.order_keys(
                self._block, scratch, words, states, start, keys[start:end]
            ),
        )
        return ordered(keys, lambda entry: hmac_sha256(key, u64(entry)), self._pool)

    def _states(self, key: bytes) -> Array:
        """The 16 words that HMAC under a key starts from."""
        out, scratch = np.empty(16, np.uint32), new_scratch()
        leaf_kernels.states_of_key(self._block, scratch, scratch.view(np.uint32), np.frombuffer(key, np.uint8), out)
        return out

    def _spread(self, count: int, work: Callable[[Array, Array, int, int], None]) -> None:
        """Run work(scratch, words, start, end) over a range, in parts on threads."""

        def part(start: int, end: int) -> None:
            scratch = new_scratch()
            work(scratch, scratch.view(np.uint32), start, end)

        if count < 4096 or self._workers == 1:
            part(0, count)
            return
        edges = [count * n // self._workers for n in range(self._workers + 1)]
        for done in [self._pool.submit(part, a, b) for a, b in pairwise(edges)]:
            done.result()


def ordered(keys: Array, whole_key: Callable[[int], bytes], pool: ThreadPoolExecutor) -> Array:
    """Entry numbers in ascending order of their sort keys.

    Args:
        keys: the first eight bytes of each entry's sort key, as a number.
        whole_key: an entry's whole key, for those whose first eight bytes are equal.
        pool: sorts buckets.
    """
    count = len(keys)
    bits = max(count.bit_length() - BUCKET_LEAVES.bit_length(), 0)
    if bits == 0:
        order = np.argsort(keys, kind="stable")
    else:
        bucket = (keys >> np.uint64(64 - bits)).astype(np.uint16 if bits <= 16 else np.uint32)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange((1 << bits) + 1))
        del bucket

        def sort(number: int) -> None:
            part = order[edges[number] : edges[number + 1]]
            part[:] = part[np.argsort(keys[part], kind="stable")]

        list(pool.map(sort, range(1 << bits)))
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    done = -1
    for at in same:
        if at < done:
            continue
        end = int(at) + 1
        while end + 1 < count and keys[order[end + 1]] == keys[order[at]]:
            end += 1
        order[at : end + 1] = sorted((int(one) for one in order[at : end + 1]), key=whole_key)
        done = end
    return order


def _sum(amounts: Array) -> int:
    """The sum of [n, 2] words, low one first; n below 2^32."""
    mask = np.uint64(0xFFFFFFFF)
    total = 0
    for column, shift in ((0, 0), (1, 64)):
        words = amounts[:, column]
        total += int((words & mask).sum(dtype=np.uint64)) << shift
        total += int((words >> np.uint64(32)).sum(dtype=np.uint64)) << shift + 32
    return total
