"""Every account's proof of a day, sealed into shards: written from the stored trees without building a thing.

What belongs here: which account goes where, the parts of a record's text, batches, threads and files.
What does not: one record (see `proof`, `shard`, which give the same bytes), the kernels (see `kernels.records`), and
the folder as others find it (see `shard_index`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.exchange.kernels.jit import Array
from engine.reserves.arena import NAME_BYTES, TreeArena
from engine.reserves.kernels import records, sealing
from engine.reserves.kernels.leaves import states_of_key
from engine.reserves.kernels.sha256 import block_address, new_scratch
from engine.reserves.keys import KeyRing
from engine.reserves.proof import LogProof, build_record, proof_record, record_frame
from engine.reserves.shard import (
    FILE_LABEL,
    FILE_SALT,
    LOCATOR_LABEL,
    join_shard,
    record_size,
    seal_record,
    shard_id,
)
from engine.reserves.shard_index import INDEX, Shards, digits_for, shard_file

_FEW = 2000
_SAMPLES = 8
_BATCH_BYTES = 64 << 20
_SEPARATOR = b", "
_STEP = (b'["', b'", "', b'"]')


class ShardWriter:
    """Writes the shards of a day.

    Args:
        arenas: asset -> stored tree, all of one day.
        ring: the exchange's keys.
        signature: of the day's manifest, hex.
        key_id: who signed it.
        log: its place in the log.
        digits: policy's most digits of a shard's name.
        workers: threads; None for as many as this process may use.
    """

    def __init__(
        self,
        arenas: Mapping[str, TreeArena],
        *,
        ctx: bytes,
        ring: KeyRing,
        signature: str,
        key_id: str,
        log: LogProof,
        digits: int,
        workers: int | None = None,
    ) -> None:
        self._arenas = [arenas[asset] for asset in sorted(arenas)]
        if any(arena.ctx != ctx for arena in self._arenas):
            raise InputError("the stored trees are not of one day", next_step="make them again from the snapshot")
        self._ctx, self._ring = ctx, ring
        self._signature, self._key_id, self._log = signature, key_id, log
        self._head, self._middle, self._tail = record_frame(ring.key_epoch, signature, key_id, log)
        self._workers = workers or len(os.sched_getaffinity(0))
        self._names = self._all_names()
        self._holders = [_rows_of(self._names, arena.names) for arena in self._arenas]
        self.digits = digits_for(len(self._names), digits)
        self.record_bytes = record_size(self._longest())

    def _all_names(self) -> Array:
        if not self._arenas:
            return np.empty(0, "S64")
        names = np.asarray(self._arenas[0].names)
        for arena in self._arenas[1:]:
            names = np.union1d(names, arena.names)
        return names

    def _longest(self) -> int:
        """Most bytes that a record of this day can have: of somebody who holds what anyone holds."""
        own = np.zeros(len(self._names), np.int64)
        for arena, holders in zip(self._arenas, self._holders, strict=True):
            own[holders >= 0] += _most_bytes(arena)
        fixed = sum(map(len, self._head)) + len(self._middle) + len(self._tail) + 64 + 8
        return fixed + int(own.max(initial=0))

    def write(self, folder: Path, *, kernels: bool | None = None) -> Shards:
        """Write all shards in place of those that were there; a draft that a killed run left is removed.

        Args:
            folder: where they go, whole or not at all.
            kernels: whether compiled code writes them; None: where there are enough to be worth loading it.

        Raises:
            FormatError: the trees are not of these keys, found on some accounts before any record is written.
        """
        for at in sorted({len(self._names) * n // _SAMPLES for n in range(_SAMPLES)} if len(self._names) else ()):
            self._record(self._names[at].decode("ascii"))
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            if kernels or (kernels is None and len(self._names) > _FEW):
                with ThreadPoolExecutor(self._workers) as pool:
                    files = self._write_files(draft, pool)
            else:
                files = self._write_plainly(draft)
            made = Shards(self._ctx, self.digits, self.record_bytes, files, len(self._names))
            (draft / INDEX).write_bytes(made.index())
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return made

    def _record(self, account: str) -> dict[str, Any]:
        return build_record(
            account,
            ring=self._ring,
            trees=self._arenas,
            signature=self._signature,
            key_id=self._key_id,
            log=self._log,
        )

    def _write_plainly(self, draft: Path) -> dict[str, str]:
        sealed: dict[str, list[bytes]] = {}
        for name in self._names.tolist():
            account = name.decode("ascii")
            record = self._record(account)
            one = seal_record(self._ring.user_key(account), self._ctx, proof_record(record), self.record_bytes)
            sealed.setdefault(shard_file(shard_id(account, self.digits)), []).append(one)
        for file, ones in sealed.items():
            (draft / file).write_bytes(join_shard(ones))
        return {file: hashlib.sha256((draft / file).read_bytes()).hexdigest() for file in sorted(sealed)}

    def _write_files(self, draft: Path, pool: ThreadPoolExecutor) -> dict[str, str]:
        prefixes = np.array(
            [hashlib.sha256(name).hexdigest()[: self.digits] for name in self._names.tolist()],
            f"S{max(self.digits, 1)}",
        )
        names = np.ascontiguousarray(self._names).view(np.uint8).reshape(-1, NAME_BYTES)
        keys = self._keys(names, pool)
        order = np.lexsort((keys.locators.view("S16").ravel(), prefixes)) if self.digits else _by(keys.locators)
        step = max(_BATCH_BYTES // self.record_bytes, 1)
        most = min(step, len(order))
        plain, out = (np.empty((most, self.record_bytes + more), np.uint8) for more in (0, 64))
        digests: dict[str, Any] = {}
        for start in range(0, len(order), step):
            batch = order[start : start + step]
            sealed = out[: len(batch)]
            self._seal(names, keys.of(batch), batch, plain[: len(batch)], sealed, pool)
            for first, end, prefix in _runs(prefixes[batch] if self.digits else None, len(batch)):
                name, data = shard_file(prefix), sealed[first:end].data
                with open(draft / name, "ab") as file:
                    file.write(data)
                digests.setdefault(name, hashlib.sha256()).update(data)
        return {name: digest.hexdigest() for name, digest in sorted(digests.items())}

    def _keys(self, names: Array, pool: ThreadPoolExecutor) -> _FileKeys:
        made = _FileKeys.empty(len(names))
        prk, salt = self._states(self._ring.user_prk), self._states(FILE_SALT)
        prefix, ctx = _bytes(self._ring.user_info), _bytes(self._ctx)

        def derive(scratch: Array, words: Array, start: int, end: int) -> None:
            sealing.file_keys(
                block_address(),
                scratch,
                words,
                prk,
                prefix,
                names[start:end],
                salt,
                ctx,
                _bytes(LOCATOR_LABEL),
                made.user[start:end],
                made.enc[start:end],
                made.mac[start:end],
                made.locators[start:end],
            )

        self._spread(pool, len(names), derive)
        return made

    def _seal(
        self, names: Array, keys: _FileKeys, batch: Array, plain: Array, out: Array, pool: ThreadPoolExecutor
    ) -> None:
        def seal(scratch: Array, words: Array, start: int, end: int) -> None:
            ends = self._texts(names[batch[start:end]], keys.user[start:end], batch[start:end], plain[start:end])
            work = np.empty(44 + self.record_bytes, np.uint8)
            sealing.seal(
                block_address(),
                scratch,
                words,
                plain[start:end],
                ends,
                keys.enc[start:end],
                keys.mac[start:end],
                keys.locators[start:end],
                _bytes(FILE_LABEL),
                work,
                out[start:end],
            )

        self._spread(pool, len(batch), seal)

    def _texts(self, names: Array, user: Array, accounts: Array, plain: Array) -> Array:
        """Write the records of some accounts from byte 4 on; gives where each ends."""
        scratch = new_scratch()
        words = scratch.view(np.uint32)
        ends = np.full(len(plain), 4, np.int64)
        records.append_text(plain, ends, _bytes(self._head[0]))
        records.append_names(plain, ends, names)
        records.append_text(plain, ends, _bytes(self._head[1]))
        started = np.zeros(len(plain), np.uint8)
        held = []
        for arena, holders in zip(self._arenas, self._holders, strict=True):
            own = holders[accounts]
            rows = np.flatnonzero(own >= 0)
            positions = np.ascontiguousarray(arena.positions.reshape(-1, arena.chunks)[own[rows]]).astype(np.int64)
            held.append((arena, rows, positions))
            name = json.dumps(arena.entry.asset).encode("ascii")
            texts = _texts_and_edges(_SEPARATOR, b'{"asset": ' + name + b', "amount": "', b'"}')
            records.append_statement(plain, ends, started, rows, arena.nodes, positions, *texts)
        records.append_text(plain, ends, _bytes(self._middle))
        started[:] = 0
        for arena, rows, positions in held:
            texts = _chunk_texts(arena.entry.asset)
            label = _bytes(_secret_label(self._ctx, arena.entry.asset))
            records.append_chunks(
                block_address(),
                scratch,
                words,
                plain,
                ends,
                started,
                rows,
                user,
                label,
                arena.nodes,
                arena.entry.height,
                positions,
                *texts,
            )
        records.append_text(plain, ends, _bytes(self._tail))
        return ends

    def _states(self, key: bytes) -> Array:
        out, scratch = np.empty(16, np.uint32), new_scratch()
        states_of_key(block_address(), scratch, scratch.view(np.uint32), _bytes(key), out)
        return out

    def _spread(self, pool: ThreadPoolExecutor, count: int, work: Callable[[Array, Array, int, int], None]) -> None:
        def part(start: int, end: int) -> None:
            scratch = new_scratch()
            work(scratch, scratch.view(np.uint32), start, end)

        edges = sorted({count * n // self._workers for n in range(self._workers + 1)})
        for done in [pool.submit(part, a, b) for a, b in pairwise(edges)]:
            done.result()


@dataclass(frozen=True)
class _FileKeys:
    user: Array
    enc: Array
    mac: Array
    locators: Array

    @classmethod
    def empty(cls, count: int) -> _FileKeys:
        user, enc, mac = (np.empty((count, 16), np.uint32) for _ in range(3))
        return cls(user, enc, mac, np.empty((count, 16), np.uint8))

    def of(self, rows: Array) -> _FileKeys:
        return _FileKeys(self.user[rows], self.enc[rows], self.mac[rows], self.locators[rows])


def _bytes(text: bytes) -> Array:
    return np.frombuffer(text, np.uint8)


def _by(locators: Array) -> Array:
    return np.argsort(locators.view("S16").ravel(), kind="stable")


def _rows_of(names: Array, some: Array) -> Array:
    """For every name its row in `some`, or -1; both ascend."""
    rows = np.full(len(names), -1, np.int64)
    rows[np.searchsorted(names, some)] = np.arange(len(some))
    return rows


def _runs(prefixes: Array | None, count: int) -> list[tuple[int, int, str]]:
    """Runs of one prefix: (first, end, prefix)."""
    if prefixes is None:
        return [(0, count, "")]
    edges = [0, *(np.flatnonzero(prefixes[1:] != prefixes[:-1]) + 1).tolist(), count]
    return [(a, b, prefixes[a].decode("ascii")) for a, b in pairwise(edges)]


def _texts_and_edges(*texts: bytes) -> tuple[Array, Array]:
    return _bytes(b"".join(texts)), np.cumsum([len(one) for one in texts])


def _chunk_texts(asset: str) -> tuple[Array, Array]:
    name = json.dumps(asset).encode("ascii")
    return _texts_and_edges(
        _SEPARATOR,
        b'{"asset": ' + name + b', "chunk": ',
        b', "amount": "',
        b'", "leaf_secret": "',
        b'", "index": ',
        b', "path": [',
        *_STEP,
        b"]}",
    )


def _secret_label(ctx: bytes, asset: str) -> bytes:
    name = asset.encode("ascii")
    return b"por/v1/leaf\0" + ctx + bytes([len(name)]) + name


def _most_bytes(arena: TreeArena) -> int:
    """Most bytes that one account's part of an asset has: no sum beside its path is above the total."""
    digits, height = len(str(arena.entry.total)), arena.entry.height
    name = len(json.dumps(arena.entry.asset))
    statement = len('{"asset": , "amount": ""}, ') + name + digits
    step = len('["", ""], ') + 64 + digits
    index = len(str((1 << height) - 1))
    chunk = len('{"asset": , "chunk": , "amount": "", "leaf_secret": "", "index": , "path": []}, ') + name
    return statement + arena.chunks * (chunk + 2 + digits + 64 + index + height * step)
