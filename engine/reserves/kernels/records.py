"""Proof records in kernels: their text from stored trees, and the sealing of it.

What belongs here: the same bytes as `engine.reserves.proof.proof_record` and `shard.seal_record`, for many users.
What does not: which users, files and threads (see `engine.reserves.shards`).

A text grows row by row: `plain[row]` is one user's record, `ends[row]` where it ends so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.exchange.kernels.jit import Array, inlined, kernel, unsigned
from engine.reserves.kernels.sha256 import (
    DIGEST_AT,
    STATE_AT,
    address_of,
    call_block,
    hmac,
    key_states,
    put_state,
)

_BILLION = unsigned(10**9)
_TEN = unsigned(10)
_LOW = unsigned(0xFFFFFFFF)
_HALF = unsigned(32)
_ZERO = unsigned(0)
_HEAD = 44
"""Bytes that a tag covers before the cipher: label, locator, nonce."""


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
def _put_text(row: Array, at: int, text: Array) -> int:
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
        ends[row] = _put_text(plain[row], ends[row], text)


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
            at = _put_text(plain[row], at, texts[: edges[0]])
        started[row] = 1
        at = _put_text(plain[row], at, texts[edges[0] : edges[1]])
        at = _put_amount(plain[row], at, high, low)
        ends[row] = _put_text(plain[row], at, texts[edges[1] : edges[2]])


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
                at = _put_text(out, at, texts[: edges[0]])
            started[row] = 1
            at = _put_text(out, at, texts[edges[0] : edges[1]])
            at = _put_word(out, at, unsigned(chunk))
            at = _put_text(out, at, texts[edges[1] : edges[2]])
            at = _put_amount(out, at, _word(leaf, 32), _word(leaf, 40))
            at = _put_text(out, at, texts[edges[2] : edges[3]])
            at = _put_hex(out, at, scratch, DIGEST_AT)
            at = _put_text(out, at, texts[edges[3] : edges[4]])
            at = _put_word(out, at, unsigned(index))
            at = _put_text(out, at, texts[edges[4] : edges[5]])
            base, width = 0, 1 << height
            for level in range(height):
                sibling = nodes[base + ((index >> level) ^ 1)]
                if level:
                    at = _put_text(out, at, texts[: edges[0]])
                at = _put_text(out, at, texts[edges[5] : edges[6]])
                at = _put_hex(out, at, sibling, 0)
                at = _put_text(out, at, texts[edges[6] : edges[7]])
                at = _put_amount(out, at, _word(sibling, 32), _word(sibling, 40))
                at = _put_text(out, at, texts[edges[7] : edges[8]])
                base += width
                width >>= 1
            at = _put_text(out, at, texts[edges[8] : edges[9]])
        ends[row] = at


@kernel
def file_keys(
    block: int,
    scratch: Array,
    words: Array,
    prk: Array,
    prefix: Array,
    names: Array,
    salt: Array,
    ctx: Array,
    locator_label: Array,
    user: Array,
    enc: Array,
    mac: Array,
    locators: Array,
) -> None:
    """The keys of users' records: K_user, encryption and authentication as states, and the locators.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        prk: 16 words of the extracted user-key key.
        prefix: exchange, zero byte and key epoch.
        names: [rows, 64] bytes, zero-padded.
        salt: 16 words: the states of HKDF's salt.
        ctx: the day's context.
        locator_label: the message of a locator.
        user: [rows, 16] words, written.
        enc: the same, written.
        mac: the same, written.
        locators: [rows, 16] bytes, written.
    """
    kept = DIGEST_AT + 32
    for row in range(len(names)):
        end = _put_text(scratch, 0, prefix)
        for i in range(64):
            if names[row, i] == 0:
                break
            scratch[end] = names[row, i]
            end += 1
        scratch[end] = 1
        hmac(block, scratch, words, prk, end + 1, scratch, kept)
        key_states(block, scratch, words, scratch, kept, user[row])
        for i in range(32):
            scratch[i] = scratch[kept + i]
        hmac(block, scratch, words, salt, 32, scratch, DIGEST_AT)
        key_states(block, scratch, words, scratch, DIGEST_AT, mac[row])
        end = _put_text(scratch, 0, ctx)
        scratch[end] = 1
        hmac(block, scratch, words, mac[row], end + 1, scratch, kept)
        key_states(block, scratch, words, scratch, kept, enc[row])
        for i in range(32):
            scratch[i] = scratch[kept + i]
        end = _put_text(scratch, 32, ctx)
        scratch[end] = 2
        hmac(block, scratch, words, mac[row], end + 1, scratch, kept)
        key_states(block, scratch, words, scratch, kept, mac[row])
        end = _put_text(scratch, 0, locator_label)
        hmac(block, scratch, words, mac[row], end, scratch, DIGEST_AT)
        for i in range(16):
            locators[row, i] = scratch[DIGEST_AT + i]


@inlined
def _hmac_of(block: int, scratch: Array, words: Array, key: Array, message: Array, length: int) -> None:
    """HMAC over a long message, read in place; the digest goes to the scratch's DIGEST_AT."""
    base, state = address_of(scratch), STATE_AT // 4
    source = address_of(message)
    for i in range(8):
        words[state + i] = key[i]
    whole = length // 64
    for number in range(whole):
        call_block(block, base + unsigned(STATE_AT), source + unsigned(64 * number))
    left = length - 64 * whole
    for i in range(left):
        scratch[i] = message[64 * whole + i]
    blocks = (left + 8) // 64 + 1
    scratch[left] = 0x80
    for i in range(left + 1, 64 * blocks - 8):
        scratch[i] = 0
    bits = unsigned(64 + length) * unsigned(8)
    for i in range(8):
        scratch[64 * blocks - 1 - i] = np.uint8((bits >> unsigned(8 * i)) & unsigned(0xFF))
    for number in range(blocks):
        call_block(block, base + unsigned(STATE_AT), base + unsigned(64 * number))
    put_state(words, state, scratch, 0)
    for i in range(8):
        words[state + i] = key[8 + i]
    _pad_digest(scratch)
    call_block(block, base + unsigned(STATE_AT), base)
    put_state(words, state, scratch, DIGEST_AT)


@inlined
def _pad_digest(scratch: Array) -> None:
    """Padding of the outer block: 32 bytes of digest after 64 of key."""
    scratch[32] = 0x80
    for i in range(33, 62):
        scratch[i] = 0
    scratch[62] = 3
    scratch[63] = 0


@inlined
def _finish_text(text: Array, end: int) -> None:
    """The length in front, zeros behind."""
    length = unsigned(end - 4)
    for i in range(4):
        text[3 - i] = np.uint8((length >> unsigned(8 * i)) & unsigned(0xFF))
    for i in range(end, len(text)):
        text[i] = 0


@inlined
def _encrypt(block: int, scratch: Array, words: Array, key: Array, text: Array, work: Array) -> None:
    """Write text XOR key stream behind the head of `work`, which ends in the nonce.

    A block of the stream is an HMAC over 24 bytes: one inner and one outer block, whose padding stays where it is.
    """
    base, state, inner = address_of(scratch), STATE_AT // 4, 128
    for i in range(64):
        scratch[inner + i] = work[28 + i] if i < 16 else np.uint8(0)
    scratch[inner + 24], scratch[inner + 62], scratch[inner + 63] = 0x80, 2, 0xC0
    _pad_digest(scratch)
    for number in range(len(text) // 32):
        count = unsigned(number)
        for i in range(4):
            scratch[inner + 23 - i] = np.uint8((count >> unsigned(8 * i)) & unsigned(0xFF))
        for i in range(8):
            words[state + i] = key[i]
        call_block(block, base + unsigned(STATE_AT), base + unsigned(inner))
        put_state(words, state, scratch, 0)
        for i in range(8):
            words[state + i] = key[8 + i]
        call_block(block, base + unsigned(STATE_AT), base)
        put_state(words, state, scratch, DIGEST_AT)
        for i in range(32):
            work[_HEAD + 32 * number + i] = text[32 * number + i] ^ scratch[DIGEST_AT + i]


@kernel
def seal(
    block: int,
    scratch: Array,
    words: Array,
    plain: Array,
    ends: Array,
    enc: Array,
    mac: Array,
    locators: Array,
    label: Array,
    work: Array,
    out: Array,
) -> None:
    """Seal every row's text.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        plain: [rows, size] bytes: four for the length, the text from 4 on; zeros are put behind it.
        ends: of the texts, the four bytes included.
        enc: [rows, 16] words.
        mac: the same.
        locators: [rows, 16] bytes.
        label: the tag's, 12 bytes.
        work: 44 + size bytes of scratch.
        out: [rows, size + 64] bytes, written.
    """
    size = plain.shape[1]
    _put_text(work, 0, label)
    for row in range(len(plain)):
        text, record = plain[row], out[row]
        _finish_text(text, int(ends[row]))
        _hmac_of(block, scratch, words, mac[row], text, size)
        for i in range(16):
            work[12 + i] = locators[row, i]
            work[28 + i] = scratch[DIGEST_AT + i]
        _encrypt(block, scratch, words, enc[row], text, work)
        _hmac_of(block, scratch, words, mac[row], work, _HEAD + size)
        for i in range(32 + size):
            record[i] = work[12 + i]
        for i in range(32):
            record[32 + size + i] = scratch[DIGEST_AT + i]
