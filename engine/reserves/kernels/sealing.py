"""The sealing of records in kernels: users' file keys, locators, encryption, tags.

What belongs here: the same bytes as `engine.reserves.shard.seal_record`, for many users.
What does not: what is sealed (see `records`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.exchange.kernels.jit import Array, inlined, kernel, unsigned
from engine.reserves.kernels.records import put_text
from engine.reserves.kernels.sha256 import (
    DIGEST_AT,
    STATE_AT,
    address_of,
    call_block,
    hmac,
    key_states,
    put_state,
)

_HEAD = 44
"""Bytes that a tag covers before the cipher: label, locator, nonce."""


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
        end = put_text(scratch, 0, prefix)
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
        end = put_text(scratch, 0, ctx)
        scratch[end] = 1
        hmac(block, scratch, words, mac[row], end + 1, scratch, kept)
        key_states(block, scratch, words, scratch, kept, enc[row])
        for i in range(32):
            scratch[i] = scratch[kept + i]
        end = put_text(scratch, 32, ctx)
        scratch[end] = 2
        hmac(block, scratch, words, mac[row], end + 1, scratch, kept)
        key_states(block, scratch, words, scratch, kept, mac[row])
        end = put_text(scratch, 0, locator_label)
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
def _turned_round(word: Any) -> Any:
    """A 32-bit word with its bytes in the other order; LLVM makes one instruction of it."""
    outer = np.uint32(word << np.uint32(24)) | np.uint32(word >> np.uint32(24))
    upper = np.uint32((word & np.uint32(0xFF00)) << np.uint32(8))
    return outer | upper | np.uint32((word >> np.uint32(8)) & np.uint32(0xFF00))


@inlined
def _encrypt(block: int, scratch: Array, words: Array, key: Array, text: Array, work: Array) -> None:
    """Write text XOR key stream behind the head of `work`, which ends in the nonce.

    A block of the stream is an HMAC over 24 bytes: one inner and one outer block, whose padding stays where it is.
    `text` and `work` are 32-bit words of a little-endian machine, SHA-256's are big-endian: each is turned round.
    """
    base, state, inner = address_of(scratch), STATE_AT // 4, 128
    for i in range(64):
        scratch[inner + i] = 0
    for i in range(4):
        words[inner // 4 + i] = work[7 + i]
    scratch[inner + 24], scratch[inner + 62], scratch[inner + 63] = 0x80, 2, 0xC0
    _pad_digest(scratch)
    for number in range(len(text) // 8):
        count = unsigned(number)
        for i in range(4):
            scratch[inner + 23 - i] = np.uint8((count >> unsigned(8 * i)) & unsigned(0xFF))
        for i in range(8):
            words[state + i] = key[i]
        call_block(block, base + unsigned(STATE_AT), base + unsigned(inner))
        for i in range(8):
            words[i] = _turned_round(words[state + i])
            words[state + i] = key[8 + i]
        call_block(block, base + unsigned(STATE_AT), base)
        for i in range(8):
            work[_HEAD // 4 + 8 * number + i] = text[8 * number + i] ^ _turned_round(words[state + i])


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
    text_words, work_words = plain.view(np.uint32), work.view(np.uint32)
    put_text(work, 0, label)
    for row in range(len(plain)):
        text, record = plain[row], out[row]
        _finish_text(text, int(ends[row]))
        _hmac_of(block, scratch, words, mac[row], text, size)
        for i in range(16):
            work[12 + i] = locators[row, i]
            work[28 + i] = scratch[DIGEST_AT + i]
        _encrypt(block, scratch, words, enc[row], text_words[row], work_words)
        _hmac_of(block, scratch, words, mac[row], work, _HEAD + size)
        for i in range(32 + size):
            record[i] = work[12 + i]
        for i in range(32):
            record[32 + size + i] = scratch[DIGEST_AT + i]
