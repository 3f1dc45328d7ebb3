"""The journal's CRC chain checked over many records at once.

What belongs here: CRC-32 as zlib computes it, eight bytes at a step.
What does not: what follows from a record that does not hold (see `engine.exchange.journal`).
"""

from __future__ import annotations

import numpy as np

from engine.exchange.kernels.jit import Array, kernel, unsigned

_BODY_WORDS = 39
_STEPS = 8


def tables() -> Array:
    """The CRC of each byte value followed by 0 to 7 zero bytes: [8, 256]."""
    made = np.zeros((_STEPS, 256), np.uint32)
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        made[0, value] = crc
    for step in range(1, _STEPS):
        before = made[step - 1]
        made[step] = before >> np.uint32(8) ^ made[0][before & np.uint32(0xFF)]
    return made


@kernel
def first_bad(words: Array, table: Array, seq: int, crc: int) -> int:
    """The first record whose sequence or CRC does not hold.

    Args:
        words: [records, 40] 32-bit words, little-endian.
        table: from `tables`.
        seq: the sequence before the first record.
        crc: the CRC before the first record.

    Returns:
        Its index; the number of records where all hold.
    """
    low = unsigned(0xFF)
    eight, sixteen, twentyfour = unsigned(8), unsigned(16), unsigned(24)
    before = unsigned(crc)
    for record in range(len(words)):
        at = unsigned(record)
        state = before ^ unsigned(0xFFFFFFFF)
        for word in range(0, _BODY_WORDS - 1, 2):
            one = state ^ unsigned(words[at, word])
            two = unsigned(words[at, word + 1])
            state = unsigned(
                table[7, one & low]
                ^ table[6, (one >> eight) & low]
                ^ table[5, (one >> sixteen) & low]
                ^ table[4, one >> twentyfour]
                ^ table[3, two & low]
                ^ table[2, (two >> eight) & low]
                ^ table[1, (two >> sixteen) & low]
                ^ table[0, two >> twentyfour]
            )
        one = state ^ unsigned(words[at, _BODY_WORDS - 1])
        state = unsigned(
            table[3, one & low]
            ^ table[2, (one >> eight) & low]
            ^ table[1, (one >> sixteen) & low]
            ^ table[0, one >> twentyfour]
        )
        before = state ^ unsigned(0xFFFFFFFF)
        number = unsigned(words[at, 0]) | (unsigned(words[at, 1]) << unsigned(32))
        if before != unsigned(words[at, _BODY_WORDS]) or number != unsigned(seq + record + 1):
            return record
    return len(words)
