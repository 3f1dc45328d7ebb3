"""Proof records in kernels: their text from stored trees.

What belongs here: the same bytes as `engine.reserves.proof.proof_record`, for many users.
What does not: the sealing (see `sealing`), which users, files and threads (see `engine.reserves.shards`).

A text grows row by row: `plain[row]` is one user's record, `ends[row]` where it ends so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.exchange.kernels.jit import Array, inlined, kernel, unsigned
from engine.reserves.kernels.sha256 import DIGEST_AT, hmac

_BILLION = unsigned(10**9)
_TEN = unsigned(10)
_LOW = unsigned(0xFFFFFFFF)
_HALF = unsigned(32)
_ZERO = unsigned(0)


@kernel
def gather_paths(nodes: Array, height: int, indices: Array, out: Array) -> None:
    """The siblings of leaves from the bottom up, as they are stored.

    Args:
        nodes: [nodes, 48] bytes of a stored tree.
        height: of the tree.
        indices: of the leaves.
        out: [leaves, height, 48] bytes, written.
    """
    for n in range(len(indices)):
        at, width, index = 0, 1 << height, int(indices[n])
        for level in range(height):
            sibling = nodes[at + ((index >> level) ^ 1)]
            for i in range(48):
                out[n, level, i] = sibling[i]
            at += width
            width >>= 1


@inlined
def put_text(row: Array, at: int, text: Array) -> int:
    """Copy a text into a row; returns where it ends."""
    for i in range(len(text)):
        row[at + i] = text[i]
    return at + len(text)


@inlined
def _put_hex(row: Array, at: int, source: Array, start: int) -> int:
    for i in range(32):
        byte = source[start + i]
        high, low = byte >> np.uint8(4), byte & np.uint8(15)
        row[at + 2 * i] = high + np.uint8(48 if high < 10 else 87)
        row[at + 2 * i + 1] = low + np.uint8(48 if low < 10 else 87)
    return at + 64


@inlined
def _put_word(row: Array, at: int, value: Any) -> int:
    """A 64-bit number in decimal."""
    digits, rest = 1, value // _TEN
    while rest:
        digits += 1
        rest //= _TEN
    for i in range(digits - 1, -1, -1):
        quotient = value // _TEN
        row[at + i] = np.uint8(value - quotient * _TEN) + np.uint8(48)
        value = quotient
    return at + digits


@inlined
def _put_nine(row: Array, at: int, value: Any) -> int:
    """The nine digits of a number below 10^9."""
    for i in range(8, -1, -1):
        quotient = value // _TEN
        row[at + i] = np.uint8(value - quotient * _TEN) + np.uint8(48)
        value = quotient
    return at + 9


@inlined
def _by_billion(high: Any, low: Any) -> Any:
    """Quotient (high, low) and remainder of two words by 10^9, in 32-bit limbs."""
    a = high >> _HALF
    rest = a % _BILLION
    quotient_high = (a // _BILLION) << _HALF
    part = (rest << _HALF) | (high & _LOW)
    quotient_high |= part // _BILLION
    part = ((part % _BILLION) << _HALF) | (low >> _HALF)
    quotient_low = (part // _BILLION) << _HALF
    part = ((part % _BILLION) << _HALF) | (low & _LOW)
    quotient_low |= part // _BILLION
    return quotient_high, quotient_low, part % _BILLION


@inlined
def _put_amount(row: Array, at: int, high: Any, low: Any) -> int:
    """Two words in decimal, below 2^127."""
    if high == _ZERO:
        return _put_word(row, at, low)
    high1, low1, rest1 = _by_billion(high, low)
    if high1 == _ZERO:
        at = _put_word(row, at, low1)
        return _put_nine(row, at, rest1)
    high2, low2, rest2 = _by_billion(high1, low1)
    if high2 == _ZERO:
        at = _put_word(row, at, low2)
    else:
        _, low3, rest3 = _by_billion(high2, low2)
        at = _put_word(row, at, low3)
        at = _put_nine(row, at, rest3)
    at = _put_nine(row, at, rest2)
    return _put_nine(row, at, rest1)


@inlined
def _word(source: Array, at: int) -> Any:
    value = _ZERO
    for i in range(8):
        value = (value << unsigned(8)) | unsigned(source[at + i])
    return value


@kernel
def amount_texts(pairs: Array, plain: Array, ends: Array) -> None:
    """Rows of (high, low) in decimal: for tests."""
    for n in range(len(pairs)):
        ends[n] = _put_amount(plain[n], 0, pairs[n, 0], pairs[n, 1])


@kernel
def append_text(plain: Array, ends: Array, text: Array) -> None:
    """The same text for every row."""
    for row in range(len(plain)):
        ends[row] = put_text(plain[row], ends[row], text)


@kernel
def append_names(plain: Array, ends: Array, names: Array) -> None:
    """Every row's account: [rows, 64] bytes, zero-padded."""
    for row in range(len(plain)):
        at = int(ends[row])
        for i in range(64):
            if names[row, i] == 0:
                break
            plain[row, at] = names[row, i]
            at += 1
        ends[row] = at


@kernel
def append_statement(
    plain: Array, ends: Array, started: Array, rows: Array, nodes: Array, positions: Array, texts: Array, edges: Array
) -> None:
    """One asset's entry of the statement, for the rows that hold it.

    Args:
        plain: [rows, bytes].
        ends: of the texts.
        started: whether a row's list has an entry already.
        rows: which rows hold the asset.
        nodes: [nodes, 48] bytes of its tree.
        positions: [holders, chunks] indices.
        texts: separator, before the amount, after it.
        edges: where each of the texts ends.
    """
    for n in range(len(rows)):
        row = int(rows[n])
        high, low = _ZERO, _ZERO
        for chunk in range(positions.shape[1]):
            leaf = nodes[positions[n, chunk]]
            part = _word(leaf, 40)
            high += _word(leaf, 32)
            low += part
            if low < part:
                high += unsigned(1)
        at = int(ends[row])
        if started[row]:
            at = put_text(plain[row], at, texts[: edges[0]])
        started[row] = 1
        at = put_text(plain[row], at, texts[edges[0] : edges[1]])
        at = _put_amount(plain[row], at, high, low)
        ends[row] = put_text(plain[row], at, texts[edges[1] : edges[2]])


@kernel
def append_chunks(
    block: int,
    scratch: Array,
    words: Array,
    plain: Array,
    ends: Array,
    started: Array,
    rows: Array,
    keys: Array,
    label: Array,
    nodes: Array,
    height: int,
    positions: Array,
    texts: Array,
    edges: Array,
) -> None:
    """One asset's chunks with their secrets and paths, for the rows that hold it.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        plain: [rows, bytes].
        ends: of the texts.
        started: whether a row's list has an entry already.
        rows: which rows hold the asset.
        keys: [rows, 16] words: the users' keys.
        label: the message of a leaf secret.
        nodes: [nodes, 48] bytes of its tree.
        height: of the tree.
        positions: [holders, chunks] indices.
        texts: separator, before chunk, amount, secret, index, path; before a digest, a sum; step's end, path's end.
        edges: where each of the texts ends.
    """
    for n in range(len(rows)):
        row = int(rows[n])
        out = plain[row]
        for i in range(len(label)):
            scratch[i] = label[i]
        hmac(block, scratch, words, keys[row], len(label), scratch, DIGEST_AT)
        at = int(ends[row])
        for chunk in range(positions.shape[1]):
            index = int(positions[n, chunk])
            leaf = nodes[index]
            if started[row]:
                at = put_text(out, at, texts[: edges[0]])
            started[row] = 1
            at = put_text(out, at, texts[edges[0] : edges[1]])
            at = _put_word(out, at, unsigned(chunk))
            at = put_text(out, at, texts[edges[1] : edges[2]])
            at = _put_amount(out, at, _word(leaf, 32), _word(leaf, 40))
            at = put_text(out, at, texts[edges[2] : edges[3]])
            at = _put_hex(out, at, scratch, DIGEST_AT)
            at = put_text(out, at, texts[edges[3] : edges[4]])
            at = _put_word(out, at, unsigned(index))
            at = put_text(out, at, texts[edges[4] : edges[5]])
            base, width = 0, 1 << height
            for level in range(height):
                sibling = nodes[base + ((index >> level) ^ 1)]
                if level:
                    at = put_text(out, at, texts[: edges[0]])
                at = put_text(out, at, texts[edges[5] : edges[6]])
                at = _put_hex(out, at, sibling, 0)
                at = put_text(out, at, texts[edges[6] : edges[7]])
                at = _put_amount(out, at, _word(sibling, 32), _word(sibling, 40))
                at = put_text(out, at, texts[edges[7] : edges[8]])
                base += width
                width >>= 1
            at = put_text(out, at, texts[edges[8] : edges[9]])
        ends[row] = at
