"""Which price levels hold orders: a bitmap of bitmaps, so that the next one is a few instructions away.

What belongs here: setting, clearing, and the nearest set bit above or below.
What does not: the levels themselves (see `stream`, `replay_book`).

Words of 64 bits; bit i of a row's word j says that word 64 j + i of the row below is not zero. Row 0 are the levels.
All rows lie in one array, `offsets[row]` is where each begins, the last offset is the end.
"""

from __future__ import annotations

from engine.exchange.kernels.jit import Array, inlined, leading_zeros, trailing_zeros, unsigned

_ONE = unsigned(1)
_ALL = unsigned(0xFFFF_FFFF_FFFF_FFFF)


def layout(size: int) -> list[int]:
    """Where each row begins for so many levels, and the end."""
    offsets = [0]
    words = size
    while True:
        words = max(1, (words + 63) // 64)
        offsets.append(offsets[-1] + words)
        if words == 1:
            return offsets


@inlined
def put(words: Array, offsets: Array, start: int, rows: int, index: int) -> None:
    """Set a bit, and in the rows above the bits that lead to it."""
    for row in range(rows):
        at = unsigned(start + offsets[row] + (index >> 6))
        old = words[at]
        words[at] = old | (_ONE << unsigned(index & 63))
        if old != 0:
            return
        index >>= 6


@inlined
def drop(words: Array, offsets: Array, start: int, rows: int, index: int) -> None:
    """Clear a bit, and in the rows above those that led to it alone."""
    for row in range(rows):
        at = unsigned(start + offsets[row] + (index >> 6))
        left = words[at] & ~(_ONE << unsigned(index & 63))
        words[at] = left
        if left != 0:
            return
        index >>= 6


@inlined
def above(words: Array, offsets: Array, start: int, rows: int, index: int) -> int:
    """The lowest set bit at or above an index, -1 for none."""
    row = 0
    while row < rows:
        word = index >> 6
        if word >= offsets[row + 1] - offsets[row]:
            return -1
        found = words[unsigned(start + offsets[row] + word)] & (_ALL << unsigned(index & 63))
        if found != 0:
            index = (word << 6) + trailing_zeros(found)
            while row > 0:
                row -= 1
                index = (index << 6) + trailing_zeros(words[unsigned(start + offsets[row] + index)])
            return index
        index = word + 1
        row += 1
    return -1


@inlined
def below(words: Array, offsets: Array, start: int, rows: int, index: int) -> int:
    """The highest set bit at or below an index, -1 for none."""
    row = 0
    while row < rows:
        if index < 0:
            return -1
        word = index >> 6
        found = words[unsigned(start + offsets[row] + word)] & (_ALL >> unsigned(63 - (index & 63)))
        if found != 0:
            index = (word << 6) + 63 - leading_zeros(found)
            while row > 0:
                row -= 1
                index = (index << 6) + 63 - leading_zeros(words[unsigned(start + offsets[row] + index)])
            return index
        index = word - 1
        row += 1
    return -1
