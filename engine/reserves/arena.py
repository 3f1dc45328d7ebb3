"""The stored tree of one asset: every level in one memory-mapped file, so that a path costs a few page reads.

What belongs here: the files of a tree, opening them, and reading leaves, paths and the auditor's dump from them.
What does not: building a tree (see `build`, `tree`), and what a proof file looks like (see `proof`).

    arena = TreeArena.open(folder_of(trees_folder, "BTC"))   # <evidence>/<book>/<date>-v<n>/trees
    arena.entry, arena.ctx, arena.chunks                     # the manifest's entry, the day, leaves an account
    for index in arena.indices("u-1"):                       # one a chunk, in order; none where it holds nothing
        arena.leaf(index), arena.path(index)                 # (digest, amount), siblings from the bottom up
    arena.nodes, arena.names, arena.positions                # the arrays themselves, for whoever writes millions

Files of a folder, which hold no key: `tree.json` (what the tree is), `nodes` (48 bytes a node: digest, u128 sum; leaves
first, root last), `accounts` (64 bytes a name, zero-padded, ascending), `positions` (u64, little-endian: index of every
live leaf in the order of account and chunk). They can be made again from the day's snapshot, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.canonical import jcs
from engine.errors import UncheckedError
from engine.reserves.entries import AssetEntry
from engine.reserves.fields import FormatError, check_hex, check_integer, exact_object, load_strict_json
from engine.reserves.tree import AssetTree, Level

NODE_BYTES = 48
NAME_BYTES = 64
_VERSION = "tree-arena/1"
_META = "tree.json"


def folder_of(trees: Path, asset: str) -> Path:
    """Where the tree of an asset lies; any asset name gives a plain folder name."""
    return trees / asset.encode("ascii").hex()


@dataclass(frozen=True)
class TreeArena:
    """One asset's stored tree; arrays are read-only views of files.

    Attributes:
        entry: what the manifest carries.
        ctx: the day that the tree is of, 32 bytes.
        chunks: leaves an account.
        nodes: [2^(height + 1) - 1, 48] bytes: digest and sum of every node, leaves first, root last.
        names: the accounts in the tree, ascending, as bytes without their padding.
        positions: index of every live leaf, by account and chunk.
    """

    entry: AssetEntry
    ctx: bytes
    chunks: int
    nodes: npt.NDArray[np.uint8]
    names: npt.NDArray[np.bytes_]
    positions: npt.NDArray[np.uint64]

    @classmethod
    def open(cls, folder: Path) -> TreeArena:
        """Open a stored tree.

        Raises:
            UncheckedError: it is not there, or not whole.
        """
        try:
            meta = _read_meta(folder / _META)
            entry = AssetEntry.parse(meta["entry"], where=str(folder))
            chunks = check_integer(meta["chunks"], 1, 64, where="chunks")
            accounts = check_integer(meta["accounts"], 0, 2**40, where="accounts")
            nodes = _map(folder / "nodes", np.dtype(np.uint8), ((2 << entry.height) - 1) * NODE_BYTES)
            names = _map(folder / "accounts", np.dtype(f"S{NAME_BYTES}"), accounts)
            positions = _map(folder / "positions", np.dtype("<u8"), accounts * chunks)
        except (OSError, FormatError, ValueError) as error:
            raise UncheckedError(
                f"the stored tree in {folder} cannot be read: {error}",
                next_step="make it again from the day's snapshot: compline evidence pack DATE",
            ) from error
        ctx = bytes.fromhex(check_hex(meta["ctx"], 32, where="ctx"))
        arena = cls(entry, ctx, chunks, nodes.reshape(-1, NODE_BYTES), names, positions)
        if arena.node(entry.height, 0) != (bytes.fromhex(entry.root), entry.total):
            raise UncheckedError(
                f"the stored tree in {folder} does not end at its root",
                next_step="remove it and make it again: compline evidence pack DATE",
            )
        return arena

    def node(self, height: int, number: int) -> tuple[bytes, int]:
        """Digest and sum of a node: `height` 0 for leaves, `number` from the left."""
        at = (2 << self.entry.height) - (2 << self.entry.height - height) + number
        raw = self.nodes[at].tobytes()
        return raw[:32], int.from_bytes(raw[32:], "big")

    def leaf(self, index: int) -> tuple[bytes, int]:
        """Digest and amount of a leaf."""
        return self.node(0, index)

    def path(self, index: int) -> Level:
        """The siblings of a leaf from the bottom up, as a proof file lists them."""
        return [self.node(height, (index >> height) ^ 1) for height in range(self.entry.height)]

    def indices(self, account: str) -> list[int]:
        """The leaves of an account, one a chunk; none where it has none in this tree."""
        name = account.encode("ascii")
        at = int(np.searchsorted(self.names, np.bytes_(name)))
        if at >= len(self.names) or self.names[at] != name:
            return []
        return [int(one) for one in self.positions[at * self.chunks : (at + 1) * self.chunks]]

    def dump_lines(self) -> Iterator[bytes]:
        """The auditor's dump: the entry's JCS, then `digest amount` of every leaf in order; each line with its LF."""
        yield jcs(self.entry.as_dict()) + b"\n"
        for start in range(0, 1 << self.entry.height, 4096):
            block = self.nodes[start : min(start + 4096, 1 << self.entry.height)].tobytes()
            yield b"".join(
                b"%s %d\n" % (block[at : at + 32].hex().encode(), int.from_bytes(block[at + 32 : at + 48], "big"))
                for at in range(0, len(block), NODE_BYTES)
            )


def _read_meta(path: Path) -> dict[str, Any]:
    value = load_strict_json(path.read_bytes(), longest=65536, where=str(path))
    meta = exact_object(value, ("v", "entry", "ctx", "chunks", "accounts"), where=str(path))
    if meta["v"] != _VERSION:
        raise FormatError(f"{path}: another version", rule=f"v is {_VERSION!r}")
    return meta


def _map(path: Path, kind: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    if path.stat().st_size != length * kind.itemsize:
        raise FormatError(f"{path} has {path.stat().st_size} bytes, not {length * kind.itemsize}")
    if not length:
        return np.empty(0, kind)
    return np.memmap(path, kind, "r", shape=(length,))


@dataclass(frozen=True)
class ArenaFiles:
    """A tree's arrays while it is built; `finish` makes them the stored tree, whole or not at all."""

    folder: Path
    draft: Path

    @classmethod
    def create(cls, folder: Path) -> ArenaFiles:
        """An empty draft beside the folder; one that a killed run left is removed."""
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        return cls(folder, draft)

    def array(self, name: str, kind: np.dtype[Any], length: int) -> npt.NDArray[Any]:
        """A writable array of a file; its room on the disk is taken first, as a full disk would kill a mapped write."""
        with open(self.draft / name, "wb") as file:
            if length:
                os.posix_fallocate(file.fileno(), 0, length * kind.itemsize)
        if not length:
            return np.empty(0, kind)
        return np.memmap(self.draft / name, kind, "r+", shape=(length,))

    def finish(self, entry: AssetEntry, *, ctx: bytes, chunks: int, accounts: int) -> None:
        """Put the tree in its place; one that was there is replaced."""
        meta = {"v": _VERSION, "entry": entry.as_dict(), "ctx": ctx.hex(), "chunks": chunks, "accounts": accounts}
        (self.draft / _META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n", encoding="ascii")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(self.draft, self.folder)

    def discard(self) -> None:
        """Remove the draft."""
        shutil.rmtree(self.draft, ignore_errors=True)


def store_tree(folder: Path, tree: AssetTree) -> None:
    """Store a tree that was built in memory, with its levels."""
    if not tree.levels:
        raise FormatError(f"the {tree.entry.asset} tree was built without levels", next_step="build with keep_levels")
    files = ArenaFiles.create(folder)
    names = sorted({account for account, _ in tree.positions})
    try:
        with open(files.draft / "nodes", "wb") as out:
            for level in tree.levels:
                out.write(b"".join(digest + total.to_bytes(16, "big") for digest, total in level))
        (files.draft / "accounts").write_bytes(
            b"".join(name.encode("ascii").ljust(NAME_BYTES, b"\0") for name in names)
        )
        spots = [tree.positions[name, chunk] for name in names for chunk in range(tree.chunks)]
        (files.draft / "positions").write_bytes(np.array(spots, "<u8").tobytes())
        files.finish(tree.entry, ctx=tree.ctx, chunks=tree.chunks, accounts=len(names))
    except BaseException:
        files.discard()
        raise
