"""SHA-256 inside kernels: libcrypto's block function where the machine has one, a compiled one of our own elsewhere.

What belongs here: finding and checking a block function, messages of any length, HMAC over kept key blocks.
What does not: what is hashed (see `leaves`, `nodes`).

A block function takes the address of eight state words and of 64 bytes. libcrypto exports one as `SHA256_Transform`
(OpenSSL 1.0 to 3; 33 ns a block with the processor's SHA instructions). It is looked for in the library that Python's
own hashlib is linked to, in the system's, and in those that database drivers bring along; the first that gives the
right digest is taken. Where there is none, `scalar` does the same at some 200 ns. Kernels are given its address, so
that one compiled kernel serves both.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import hashlib
import importlib.util
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba as untyped_numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.errors import ConfigError
from engine.exchange.kernels.jit import Array, inlined, kernel, unsigned

BLOCK = 64
SCRATCH_BYTES = 1024
"""Room for one message and its padding, and behind it a state and a digest."""
STATE_AT, DIGEST_AT = 640, 768
LONGEST_MESSAGE = STATE_AT - 9 - BLOCK

numba: Any = untyped_numba
_START = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32
)


class BlockFunction(StrEnum):
    """Which block function kernels call."""

    LIBCRYPTO = "libcrypto"
    NUMBA = "numba"


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % one for one in found):
            found.append(number)
        number += 1
    return found


def _cube_root_bits(prime: int) -> int:
    """The first 32 bits of the fraction of a cube root (FIPS 180-4, 4.2.2), in integers."""
    target, low, high = prime << 96, 0, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= target else (low, middle - 1)
    return low & 0xFFFFFFFF


_ROUNDS = np.array([_cube_root_bits(prime) for prime in _primes(64)], np.uint32)


@inlined
def _turned(word: Any, by: Any) -> Any:
    return np.uint32(word >> by) | np.uint32(word << (np.uint32(32) - by))


def _scalar(state_at: Any, data_at: Any) -> None:
    state = numba.carray(state_at, 8)
    data = numba.carray(data_at, 64)
    words = np.empty(64, np.uint32)
    for i in range(16):
        words[i] = (
            np.uint32(data[4 * i]) << np.uint32(24)
            | np.uint32(data[4 * i + 1]) << np.uint32(16)
            | np.uint32(data[4 * i + 2]) << np.uint32(8)
            | np.uint32(data[4 * i + 3])
        )
    for i in range(16, 64):
        one, two = words[i - 15], words[i - 2]
        small0 = _turned(one, np.uint32(7)) ^ _turned(one, np.uint32(18)) ^ np.uint32(one >> np.uint32(3))
        small1 = _turned(two, np.uint32(17)) ^ _turned(two, np.uint32(19)) ^ np.uint32(two >> np.uint32(10))
        words[i] = np.uint32(words[i - 16] + small0 + words[i - 7] + small1)
    a, b, c, d = state[0], state[1], state[2], state[3]
    e, f, g, h = state[4], state[5], state[6], state[7]
    for i in range(64):
        big1 = _turned(e, np.uint32(6)) ^ _turned(e, np.uint32(11)) ^ _turned(e, np.uint32(25))
        chosen = (e & f) ^ (~e & g)
        first = np.uint32(h + big1 + chosen + _ROUNDS[i] + words[i])
        big0 = _turned(a, np.uint32(2)) ^ _turned(a, np.uint32(13)) ^ _turned(a, np.uint32(22))
        most = (a & b) ^ (a & c) ^ (b & c)
        second = np.uint32(big0 + most)
        h, g, f, e = g, f, e, np.uint32(d + first)
        d, c, b, a = c, b, a, np.uint32(first + second)
    state[0], state[1], state[2], state[3] = state[0] + a, state[1] + b, state[2] + c, state[3] + d
    state[4], state[5], state[6], state[7] = state[4] + e, state[5] + f, state[6] + g, state[7] + h


@cache
def scalar() -> Any:
    """The block function of our own, compiled; keep it alive while its address is used."""
    pointer: Any = types.CPointer
    signature = types.void(pointer(types.uint32), pointer(types.uint8))
    try:
        return numba.cfunc(signature, nopython=True, cache=True)(_scalar)
    except (RuntimeError, OSError):
        return numba.cfunc(signature, nopython=True)(_scalar)


def _call_block(typing_context: Any, address: Any, state: Any, data: Any) -> Any:
    """Call the block function at an address with the addresses of a state and of 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [pointer, pointer])
        called = builder.inttoptr(arguments[0], function_type.as_pointer())
        builder.call(called, [builder.inttoptr(one, pointer) for one in arguments[1:]])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), generate


def _address_of(typing_context: Any, array: Any) -> Any:
    """Where an array's numbers begin."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.uintp(array), generate


call_block = cast(Any, intrinsic(_call_block))
address_of = cast(Any, intrinsic(_address_of))


@cache
def block_address(which: BlockFunction | None = None) -> int:
    """The address of a block function.

    Args:
        which: None takes libcrypto's where there is one.

    Raises:
        ConfigError: libcrypto's is asked for, and no library here has it.
    """
    if which != BlockFunction.NUMBA:
        for library in _libraries():
            address = _transform_of(library)
            if address is not None:
                return address
        if which == BlockFunction.LIBCRYPTO:
            raise ConfigError(
                "no library on this machine exports libcrypto's SHA256_Transform",
                next_step="set COMPLINE_TREE_KERNEL to auto or numba",
            )
    return int(scalar().address)


def _libraries() -> Iterator[str]:
    hashing = importlib.util.find_spec("_hashlib")
    if hashing is not None and hashing.origin:
        yield hashing.origin
    if name := ctypes.util.find_library("crypto"):
        yield name
    for package in ("psycopg_binary", "psycopg2"):
        found = importlib.util.find_spec(package)
        if found is not None and found.origin:
            for folder in ("psycopg_binary.libs", "psycopg2_binary.libs"):
                yield from map(str, sorted((Path(found.origin).parent.parent / folder).glob("libcrypto*")))


_kept: list[ctypes.CDLL] = []


def _transform_of(library: str) -> int | None:
    """The address of a library's block function, if it has one that computes SHA-256."""
    with contextlib.suppress(OSError, AttributeError):
        opened = ctypes.CDLL(library)
        address = ctypes.cast(opened.SHA256_Transform, ctypes.c_void_p).value
        if address and _computes_sha256(address):
            _kept.append(opened)
            return address
    return None


def _computes_sha256(address: int) -> bool:
    """One block of a known message; the state has room for a whole SHA256_CTX, should a build write its counters."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)
    state = np.zeros(64, np.uint32)
    state[:8] = _START
    message = np.zeros(64, np.uint8)
    message[:4] = (0x61, 0x62, 0x63, 0x80)
    message[63] = 24
    call(state.ctypes.data, message.ctypes.data)
    return state[:8].astype(">u4").tobytes() == hashlib.sha256(b"abc").digest() and not state[8:].any()


def new_scratch() -> Array:
    """A worker's own scratch: uint8, 64-byte aligned; kernels allocate nothing."""
    raw = np.zeros(SCRATCH_BYTES + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + SCRATCH_BYTES]


@inlined
def pad_message(scratch: Array, length: int, before: int) -> int:
    """Pad a message at the start of the scratch; returns how many blocks it has.

    Args:
        scratch: a worker's own.
        length: bytes of the message.
        before: bytes hashed already, whole blocks.
    """
    blocks = (length + 8) // BLOCK + 1
    scratch[length] = 0x80
    for at in range(length + 1, blocks * BLOCK - 8):
        scratch[at] = 0
    bits = unsigned(before + length) * unsigned(8)
    for i in range(8):
        scratch[blocks * BLOCK - 1 - i] = np.uint8(bits & unsigned(0xFF))
        bits >>= unsigned(8)
    return int(blocks)


@inlined
def put_state(words: Array, at: int, target: Array, where: int) -> None:
    """Write a state's eight words as the 32 bytes of a digest."""
    for i in range(8):
        word = words[at + i]
        target[where + 4 * i] = np.uint8(word >> np.uint32(24))
        target[where + 4 * i + 1] = np.uint8((word >> np.uint32(16)) & np.uint32(0xFF))
        target[where + 4 * i + 2] = np.uint8((word >> np.uint32(8)) & np.uint32(0xFF))
        target[where + 4 * i + 3] = np.uint8(word & np.uint32(0xFF))


@inlined
def start_state(words: Array, at: int) -> None:
    """SHA-256's first state."""
    words[at], words[at + 1] = np.uint32(0x6A09E667), np.uint32(0xBB67AE85)
    words[at + 2], words[at + 3] = np.uint32(0x3C6EF372), np.uint32(0xA54FF53A)
    words[at + 4], words[at + 5] = np.uint32(0x510E527F), np.uint32(0x9B05688C)
    words[at + 6], words[at + 7] = np.uint32(0x1F83D9AB), np.uint32(0x5BE0CD19)


@inlined
def hmac(block: int, scratch: Array, words: Array, key: Array, length: int, target: Array, where: int) -> None:
    """HMAC over the message at the start of the scratch, which is lost.

    Args:
        block: address of the block function.
        scratch: a worker's own, and `words` the same as 32-bit words.
        words: see `scratch`.
        key: 16 words: the states after the padded key's inner and outer block.
        length: bytes of the message.
        target: gets 32 bytes.
        where: at which place of `target`.
    """
    base = address_of(scratch)
    state = STATE_AT // 4
    for i in range(8):
        words[state + i] = key[i]
    for number in range(pad_message(scratch, length, BLOCK)):
        call_block(block, base + unsigned(STATE_AT), base + unsigned(number * BLOCK))
    put_state(words, state, scratch, 0)
    for i in range(8):
        words[state + i] = key[8 + i]
    pad_message(scratch, 32, BLOCK)
    call_block(block, base + unsigned(STATE_AT), base)
    put_state(words, state, target, where)


@inlined
def key_states(block: int, scratch: Array, words: Array, key: Array, at: int, target: Array) -> None:
    """The states after a 32-byte key's padded inner and outer blocks: what HMAC starts from.

    Args:
        block: address of the block function.
        scratch: a worker's own; its start is lost.
        words: the scratch as 32-bit words.
        key: bytes; the key's 32 begin `at`; not the start of the scratch.
        at: see `key`.
        target: gets 16 words.
    """
    base = address_of(scratch)
    state = STATE_AT // 4
    for part in range(2):
        mask = np.uint8(0x36) if part == 0 else np.uint8(0x5C)
        for i in range(32):
            scratch[i] = key[at + i] ^ mask
        for i in range(32, 64):
            scratch[i] = mask
        start_state(words, state)
        call_block(block, base + unsigned(STATE_AT), base)
        for i in range(8):
            target[8 * part + i] = words[state + i]


@kernel
def hash_texts(block: int, scratch: Array, words: Array, texts: Array, ends: Array, out: Array) -> None:
    """The SHA-256 of each of many messages of any length.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the scratch as 32-bit words.
        texts: the messages, one after the other (uint8).
        ends: where each ends (int64).
        out: uint8[messages, 32].
    """
    base, state, start = address_of(scratch), STATE_AT // 4, 0
    source = address_of(texts)
    for message in range(ends.shape[0]):
        whole = (ends[message] - start) // BLOCK * BLOCK
        start_state(words, state)
        for at in range(start, start + whole, BLOCK):
            call_block(block, base + unsigned(STATE_AT), source + unsigned(at))
        rest = ends[message] - start - whole
        for n in range(rest):
            scratch[n] = texts[start + whole + n]
        for number in range(pad_message(scratch, rest, whole)):
            call_block(block, base + unsigned(STATE_AT), base + unsigned(number * BLOCK))
        put_state(words, state, out[message], 0)
        start = ends[message]


@kernel
def hash_blocks(block: int, scratch: Array, words: Array, count: int) -> None:
    """Hash so many blocks one after another: the floor that trees are compared with."""
    base = address_of(scratch)
    start_state(words, STATE_AT // 4)
    for _ in range(count):
        call_block(block, base + unsigned(STATE_AT), base)
