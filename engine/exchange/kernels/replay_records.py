"""Which order records the replay kernel can take as they are.

What belongs here: `engine.exchange.codec.decode`'s refusals of an order's record, compiled.
What does not: what an order is checked against (see `replay_checks`).

A journal's CRCs prove that nothing was damaged, not who wrote it. Fields that no version writes would otherwise be read
in one way here and in another by the online engine.
"""

from __future__ import annotations

from engine.exchange.kernels.jit import kernel, unsigned
from engine.exchange.kernels.replay import CANCEL_ALL, NEW_ORDER
from engine.exchange.kernels.replay_arrays import (
    KIND_BYTE,
    SIDE_BYTE,
    TEXT_WORDS,
    TIF_BYTE,
    W_RESERVE,
    W_TEXT,
    World,
)
from engine.exchange.kernels.replay_checks import MARKET_TIF

_TEXT_BYTE = 4 * W_TEXT
_TOP = unsigned(31)


@kernel
def first_strange(world: World) -> int:
    """The first order, or cancel of all, that `decode` refuses; the number of records where it refuses none."""
    for record in range(len(world.raw)):
        at = unsigned(record)
        kind = world.raw[at, KIND_BYTE]
        if kind == NEW_ORDER:
            if world.raw[at, SIDE_BYTE] > 1 or world.raw[at, TIF_BYTE] > MARKET_TIF:
                return record
            beyond = unsigned(world.words[at, W_RESERVE + 1]) >> _TOP
            if beyond or world.words[at, W_RESERVE + 2] or world.words[at, W_RESERVE + 3]:
                return record
        elif kind != CANCEL_ALL:
            continue
        ended = False
        for word in range(TEXT_WORDS):
            if world.words[at, unsigned(W_TEXT + word)] == 0:
                ended = True
                continue
            for place in range(4):
                letter = world.raw[at, unsigned(_TEXT_BYTE + 4 * word + place)]
                if letter == 0:
                    ended = True
                elif ended or letter < 0x20 or letter > 0x7E:
                    return record
    return len(world.raw)
