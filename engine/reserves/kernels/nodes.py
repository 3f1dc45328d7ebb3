"""The levels above the leaves, in kernels: the same bytes as `engine.reserves.tree.next_level`.

What belongs here: hashing pairs of 48-byte nodes (digest, u128 sum) into their parents.
What does not: leaves (see `leaves`).
"""

from __future__ import annotations

import numpy as np

from engine.exchange.kernels.jit import Array, kernel, unsigned
from engine.reserves.kernels.sha256 import (
    STATE_AT,
    address_of,
    call_block,
    pad_message,
    put_state,
    start_state,
)

_NODE = 48
_MESSAGE = 98


@kernel
def parents(
    block: int, scratch: Array, words: Array, height: int, children: Array, out: Array, start: int, end: int
) -> None:
    """The nodes `start` to `end` of a level.

    Args:
        block: address of the block function.
        scratch: a worker's own.
        words: the same as 32-bit words.
        height: of the level that is made, 1 for the parents of leaves.
        children: [2 x nodes, 48] bytes of the level below.
        out: [nodes, 48] bytes, written.
        start: first node.
        end: behind the last node.
    """
    base = address_of(scratch)
    state = STATE_AT // 4
    pad_message(scratch, _MESSAGE, 0)
    scratch[0] = 1
    scratch[1] = np.uint8(height)
    for number in range(start, end):
        left, right = children[2 * number], children[2 * number + 1]
        for i in range(_NODE):
            scratch[2 + i] = left[i]
        for i in range(_NODE):
            scratch[50 + i] = right[i]
        start_state(words, state)
        call_block(block, base + unsigned(STATE_AT), base)
        call_block(block, base + unsigned(STATE_AT), base + unsigned(64))
        node = out[number]
        put_state(words, state, node, 0)
        carry = 0
        for i in range(15, -1, -1):
            carry += int(left[32 + i]) + int(right[32 + i])
            node[32 + i] = np.uint8(carry & 0xFF)
            carry >>= 8
