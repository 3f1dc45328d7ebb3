"""Leaves in kernels: users' keys, leaf secrets, cut points, tags, the keyed order and the placing.

What belongs here: the same bytes as `engine.reserves.leaves` and `keys`, for arrays of accounts.
What does not: files and threads around them (see `engine.reserves.arena_builder`), and the levels above (see `nodes`).

Amounts are two unsigned words, low one first, below 2^127. A live leaf is 48 bytes: tag, then the amount as u128.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.exchange.kernels.jit import Array, inlined, kernel, leading_zeros, multiply_high, unsigned
from engine.reserves.kernels.sha256 import (
    DIGEST_AT,
    STATE_AT,
    address_of,
    call_block,
    hmac,
    key_states,
    pad_message,
    put_state,
    start_state,
)

_HALF = unsigned(32)
_LOW = unsigned(0xFFFFFFFF)
_ONE = unsigned(1)
_ZERO = unsigned(0)


@inlined
def _put_name(scratch: Array, at: int, names: Array, row: int, lengths: Array) -> int:
    """Copy an account's name; returns where it ends."""
    length = int(lengths[row])
    for i in range(length):
        scratch[at + i] = names[row, i]
    return at + length


@inlined
def _put_u32(target: Array, at: int, value: int) -> None:
    target[at] = np.uint8((value >> 24) & 0xFF)
    target[at + 1] = np.uint8((value >> 16) & 0xFF)
    target[at + 2] = np.uint8((value >> 8) & 0xFF)
    target[at + 3] = np.uint8(value & 0xFF)


@inlined
def _put_u64(target: Array, at: int, value: Any) -> None:
    for i in range(8):
        target[at + 7 - i] = np.uint8((value >> unsigned(8 * i)) & unsigned(0xFF))


@inlined
def _get_u64(source: Array, at: int) -> Any:
    value = _ZERO
    for i in range(8):
        value = (value << unsigned(8)) | unsigned(source[at + i])
    return value


@inlined
def _divide(high: Any, low: Any, by: Any) -> Any:
    """Quotient and remainder of two words by one that is greater than the high one (Hacker's Delight, divlu)."""
    shift = unsigned(leading_zeros(by))
    divisor = by << shift
    first, second = divisor >> _HALF, divisor & _LOW
    upper = (high << shift) | ((low >> (unsigned(63) - shift)) >> _ONE)
    lower = low << shift
    next1, next0 = lower >> _HALF, lower & _LOW
    quotient1 = upper // first
    rest = upper - quotient1 * first
    while quotient1 > _LOW or quotient1 * second > ((rest << _HALF) | next1):
        quotient1 -= _ONE
        rest += first
        if rest > _LOW:
            break
    middle = (upper << _HALF) + next1 - quotient1 * divisor
    quotient0 = middle // first
    rest = middle - quotient0 * first
    while quotient0 > _LOW or quotient0 * second > ((rest << _HALF) | next0):
        quotient0 -= _ONE
        rest += first
        if rest > _LOW:
            break
    left = ((middle << _HALF) + next0 - quotient0 * divisor) >> shift
    return (quotient1 << _HALF) + quotient0, left


@inlined
def remainder(low: Any, high: Any, by_low: Any, by_high: Any) -> Any:
    """A 128-bit number modulo another that is not zero, as (low, high)."""
    if by_high == _ZERO:
        _, rest = _divide(high % by_low, low, by_low)
        return rest, _ZERO
    if high < by_high or (high == by_high and low < by_low):
        return low, high
    shift = unsigned(leading_zeros(by_high))
    top = (by_high << shift) | ((by_low >> (unsigned(63) - shift)) >> _ONE)
    quotient, _ = _divide(high >> _ONE, (high << unsigned(63)) | (low >> _ONE), top)
    quotient = quotient >> (unsigned(63) - shift)
    if quotient != _ZERO:
        quotient -= _ONE
    took_low = quotient * by_low
    took_high = multiply_high(quotient, by_low) + quotient * by_high
    rest_low = low - took_low
    rest_high = high - took_high - (_ONE if low < took_low else _ZERO)
    if rest_high > by_high or (rest_high == by_high and rest_low >= by_low):
        rest_high = rest_high - by_high - (_ONE if rest_low < by_low else _ZERO)
        rest_low = rest_low - by_low
    return rest_low, rest_high


@kernel
def remainders(pairs: Array, out: Array) -> None:
    """Rows of (low, high, by low, by high) -> rows of (low, high): for tests."""
    for i in range(len(pairs)):
        out[i, 0], out[i, 1] = remainder(pairs[i, 0], pairs[i, 1], pairs[i, 2], pairs[i, 3])


@kernel
def derive_keys(
    block: int, scratch: Array, words: Array, prk: Array, prefix: Array, names: Array, lengths: Array, keys: Array
) -> None:
    """Every account's key, as the states that HMAC starts from.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        prk: 16 words of the extracted key.
        prefix: exchange, zero byte and key epoch.
        names: [accounts, 64] bytes.
        lengths: of the names.
        keys: [accounts, 16] words, written.
    """
    for row in range(len(names)):
        for i in range(len(prefix)):
            scratch[i] = prefix[i]
        end = _put_name(scratch, len(prefix), names, row, lengths)
        scratch[end] = 1
        hmac(block, scratch, words, prk, end + 1, scratch, DIGEST_AT)
        key_states(block, scratch, words, scratch, DIGEST_AT, keys[row])


@kernel
def states_of_key(block: int, scratch: Array, words: Array, key: Array, out: Array) -> None:
    """The 16 words that HMAC under a 32-byte key starts from."""
    key_states(block, scratch, words, key, 0, out)


@inlined
def _sort_cuts(cuts: Array, count: int) -> None:
    for i in range(1, count):
        low, high = cuts[i, 0], cuts[i, 1]
        at = i
        while at > 0 and (cuts[at - 1, 1] > high or (cuts[at - 1, 1] == high and cuts[at - 1, 0] > low)):
            cuts[at, 0], cuts[at, 1] = cuts[at - 1, 0], cuts[at - 1, 1]
            at -= 1
        cuts[at, 0], cuts[at, 1] = low, high


@kernel
def make_leaves(
    block: int,
    scratch: Array,
    words: Array,
    keys: Array,
    names: Array,
    lengths: Array,
    rows: Array,
    amounts: Array,
    label: Array,
    split: Array,
    cuts: Array,
    secret: Array,
    out: Array,
) -> None:
    """The live leaves of some accounts in one asset, chunk by chunk.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        keys: [accounts, 16] words from `derive_keys`.
        names: [accounts, 64] bytes.
        lengths: of the names.
        rows: which accounts hold something.
        amounts: [rows, 2], none of them zero.
        label: the message of a leaf secret.
        split: 16 words: the day's and asset's split key.
        cuts: [chunks + 1, 2] words of scratch.
        secret: 16 words of scratch.
        out: [rows x chunks, 48] bytes, written.
    """
    chunks = len(cuts) - 1
    for n in range(len(rows)):
        row = int(rows[n])
        low, high = amounts[n, 0], amounts[n, 1]
        by_low = low + _ONE
        by_high = high + (_ONE if by_low == _ZERO else _ZERO)
        for j in range(1, chunks):
            _put_u32(scratch, 0, j)
            end = _put_name(scratch, 4, names, row, lengths)
            hmac(block, scratch, words, split, end, scratch, DIGEST_AT)
            drawn_high, drawn_low = _get_u64(scratch, DIGEST_AT), _get_u64(scratch, DIGEST_AT + 8)
            cuts[j - 1, 0], cuts[j - 1, 1] = remainder(drawn_low, drawn_high, by_low, by_high)
        _sort_cuts(cuts, chunks - 1)
        cuts[chunks - 1, 0], cuts[chunks - 1, 1] = low, high
        for i in range(len(label)):
            scratch[i] = label[i]
        hmac(block, scratch, words, keys[row], len(label), scratch, DIGEST_AT)
        key_states(block, scratch, words, scratch, DIGEST_AT, secret)
        before_low, before_high = _ZERO, _ZERO
        for chunk in range(chunks):
            leaf = n * chunks + chunk
            _put_u32(scratch, 0, chunk)
            end = _put_name(scratch, 4, names, row, lengths)
            hmac(block, scratch, words, secret, end, out[leaf], 0)
            part_low = cuts[chunk, 0] - before_low
            part_high = cuts[chunk, 1] - before_high - (_ONE if cuts[chunk, 0] < before_low else _ZERO)
            _put_u64(out[leaf], 32, part_high)
            _put_u64(out[leaf], 40, part_low)
            before_low, before_high = cuts[chunk, 0], cuts[chunk, 1]


@kernel
def order_keys(block: int, scratch: Array, words: Array, key: Array, start: int, out: Array) -> None:
    """The first eight bytes of the sort keys of entries from `start` on, as numbers."""
    for n in range(len(out)):
        _put_u64(scratch, 0, unsigned(start + n))
        hmac(block, scratch, words, key, 8, scratch, DIGEST_AT)
        out[n] = _get_u64(scratch, DIGEST_AT)


@kernel
def place(
    block: int,
    scratch: Array,
    words: Array,
    pad: Array,
    order: Array,
    live: Array,
    start: int,
    positions: Array,
    nodes: Array,
) -> None:
    """Leaves from `start` on in their place: live ones from their entries, pads in between.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        pad: 16 words: the day's and asset's padding key.
        order: the entries in the order of their sort keys, from `start` on.
        live: [live leaves, 48] bytes.
        start: final index of the first.
        positions: final index by live leaf, written.
        nodes: [nodes, 48] bytes, written at the final indices.
    """
    base = address_of(scratch)
    state = STATE_AT // 4
    count = len(live)
    padded = False
    for n in range(len(order)):
        index, entry = start + n, int(order[n])
        node = nodes[index]
        if entry < count:
            positions[entry] = unsigned(index)
            leaf = live[entry]
            for i in range(48):
                scratch[1 + i] = leaf[i]
            for i in range(16):
                node[32 + i] = leaf[32 + i]
        else:
            _put_u64(scratch, 0, unsigned(index))
            hmac(block, scratch, words, pad, 8, scratch, DIGEST_AT)
            padded = False
            for i in range(32):
                scratch[1 + i] = scratch[DIGEST_AT + i]
            for i in range(16):
                scratch[33 + i] = 0
                node[32 + i] = 0
        if not padded:
            scratch[0] = 0
            pad_message(scratch, 49, 0)
            padded = True
        start_state(words, state)
        call_block(block, base + unsigned(STATE_AT), base)
        put_state(words, state, node, 0)
