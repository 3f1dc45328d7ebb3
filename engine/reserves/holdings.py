"""Balances as text and as arrays: what trees of millions of accounts are built from, block by block.

What belongs here: reading lines of `account TAB asset number TAB smallest units LF` into blocks of whole accounts.
What does not: who sends them (see `engine.store.trees`), and building (see `build`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.exchange.kernels.jit import Array
from engine.reserves.arena import NAME_BYTES
from engine.reserves.kernels import rows as row_kernels
from engine.reserves.leaves import LeafError


@dataclass
class AccountBlock:
    """Some accounts and what they hold, ascending by account.

    Attributes:
        names: [accounts, 64] bytes, zero-padded.
        lengths: of the names.
        owners: account row of each holding.
        assets: asset number of each holding.
        amounts: [holdings, 2] words, low one first.
    """

    names: Array
    lengths: Array
    owners: Array
    assets: Array
    amounts: Array


_PROBLEMS = {
    row_kernels.BAD_NAME: "an account is 1 to 64 of a-z, 0-9 and -",
    row_kernels.BAD_NUMBER: "account, asset number and a whole number of smallest units, separated by tabs",
    row_kernels.OUT_OF_ORDER: "accounts ascend, and an account has one balance per asset",
    row_kernels.TOO_LARGE: "amounts lie in [0, 2^127) smallest units",
    row_kernels.TOO_MANY: "a line has at least five bytes",
}


def read_block(text: bytes) -> AccountBlock:
    """Read whole lines of `account TAB asset number TAB units LF`, ascending by account and asset number.

    Raises:
        LeafError: a line is anything else; it is named.
    """
    lines = text.count(b"\n")
    if not text.endswith(b"\n"):
        raise LeafError("a block of balances ends inside a line", rule="whole lines")
    source = np.frombuffer(text, np.uint8)
    names, lengths = np.zeros((lines, NAME_BYTES), np.uint8), np.zeros(lines, np.int64)
    owners, assets = np.zeros(lines, np.int64), np.zeros(lines, np.int64)
    amounts, state = np.zeros((lines, 2), np.uint64), np.zeros(2, np.int64)
    read = row_kernels.read_rows(source, len(text), names, lengths, owners, assets, amounts, state)
    if read < 0:
        line = text[state[0] : text.index(b"\n", state[0])][:120].decode("ascii", "replace")
        raise LeafError(f"balance {line!r}", rule=_PROBLEMS[read], next_step="look at the day's snapshot")
    accounts = int(state[1])
    return AccountBlock(names[:accounts], lengths[:accounts], owners[:read], assets[:read], amounts[:read])


def blocks_of(chunks: Iterable[bytes | memoryview], block_bytes: int = 1 << 22) -> Iterator[AccountBlock]:
    """Blocks from a stream of text; an account's lines stay in one block, whatever pieces the text comes in.

    The last account of a block is kept for the next one, so that its order is checked across blocks too.
    """
    held: list[bytes] = []
    size = 0

    def cut(text: bytes) -> tuple[bytes, bytes]:
        end = text.rfind(b"\n") + 1
        start = text.rfind(b"\n", 0, max(end - 1, 0)) + 1
        name = text[start : text.find(b"\t", start) + 1]
        while start > 0:
            before = text.rfind(b"\n", 0, start - 1) + 1
            if not text.startswith(name, before):
                break
            start = before
        return text[:start], text[start:]

    for chunk in chunks:
        held.append(bytes(chunk))
        size += len(chunk)
        if size >= block_bytes:
            whole, rest = cut(b"".join(held))
            held, size = [rest], len(rest)
            if whole:
                yield read_block(whole)
    if size:
        yield read_block(b"".join(held))
