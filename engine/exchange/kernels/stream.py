"""Matching alone over a stream of plain messages, as a kernel: what `conformance` runs.

What belongs here: price-time priority over a slot pool and tick-indexed levels, and the stream's reports.
What does not: accounts, money, order types (see `replay`), and reading a stream (see `engine.exchange.conformance`).

Slots are recycled, newest first, so that a busy book stays in the cache. Slot 0 is nobody. A level is the first and
last slot of a queue. A book never stands crossed, so one bitmap serves both sides: what lies at or below the best bid
are bids. Links are 32-bit unsigned, which spares numba's test for a negative index.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.exchange.kernels import bitmap
from engine.exchange.kernels.jit import Array, inlined, kernel, link, signed, unsigned

QUANTITY, ORDER_ID, TICK, PREVIOUS, NEXT, SIDE, KEY, PRICE = range(8)
"""Columns of a slot: one cache line."""

NEW, CANCEL, MODIFY = 0, 1, 2
ORDER_ACK, TRADE, CANCEL_ACK, MODIFY_ACK, CANCEL_REJECT, MODIFY_REJECT = range(6)


@inlined
def _report(reports: Array, row: int, kind: int, seq: int, a: int, b: int, c: int, d: int) -> int:
    at = unsigned(row)
    reports[at, 0] = kind
    reports[at, 1] = seq
    reports[at, 2] = a
    reports[at, 3] = b
    reports[at, 4] = c
    reports[at, 5] = d
    return row + 1


@inlined
def _unlink(pool: Array, levels: Array, slot: int) -> bool:
    """Take a slot out of its queue; whether the level is empty now."""
    tick = unsigned(pool[slot, TICK])
    before, after = link(pool[slot, PREVIOUS]), link(pool[slot, NEXT])
    if before:
        pool[before, NEXT] = after
    else:
        levels[tick, 0] = after
    if after:
        pool[after, PREVIOUS] = before
    else:
        levels[tick, 1] = before
    return bool(before == 0 and after == 0)


@kernel
def match_stream(  # noqa: C901 - one loop: a call a message would cost a fifth
    kinds: Array,
    sides: Array,
    iocs: Array,
    quantities: Array,
    order_ids: Array,
    keys: Array,
    ticks: Array,
    prices: Array,
    pool: Array,
    slot_of: Array,
    levels: Array,
    words: Array,
    offsets: Array,
    reports: Array,
) -> int:
    """Match a stream into an empty book.

    Args:
        kinds: NEW, CANCEL or MODIFY, one a message.
        sides: 0 buy, 1 sell.
        iocs: whether the unfilled rest of a new order is cancelled.
        quantities: of new and modified orders, at least 1.
        order_ids: as reports state them.
        keys: a dense number of each order id, an index of `slot_of`.
        ticks: a dense number of each price that grows with it, an index of `levels`.
        prices: as reports state them.
        pool: [messages + 1, 8], zeros.
        slot_of: [keys], zeros.
        levels: [ticks, 2], zeros.
        words: bitmap of `levels`, zeros.
        offsets: its rows.
        reports: [3 x messages, 6], filled with (type, seq, up to four columns).

    Returns:
        How many reports there are; -1 - row for a new order whose id rests.
    """
    rows = len(offsets) - 1
    size = len(levels)
    best_bid, best_ask = -1, size
    free, used, count = 0, 0, 0
    for seq in range(len(kinds)):
        at = unsigned(seq)
        kind, order_id, price = kinds[at], order_ids[at], prices[at]
        key = unsigned(keys[at])
        slot = slot_of[key]
        side = signed(sides[at])
        ioc = iocs[at] != 0
        if kind == NEW:
            if slot:
                return -1 - seq
            count = _report(reports, count, ORDER_ACK, seq, side, order_id, price, quantities[at])
        else:
            if not slot:
                count = _report(reports, count, kind + 3, seq, order_id, 0, 0, 0)
                continue
            side = pool[slot, SIDE]
            tick = pool[slot, TICK]
            if kind == CANCEL:
                count = _report(reports, count, CANCEL_ACK, seq, side, order_id, pool[slot, PRICE], 0)
            if _unlink(pool, levels, slot):
                bitmap.drop(words, offsets, 0, rows, tick)
                if tick == best_bid:
                    best_bid = bitmap.below(words, offsets, 0, rows, tick)
                elif tick == best_ask:
                    best_ask = bitmap.above(words, offsets, 0, rows, tick)
                    best_ask = size if best_ask < 0 else best_ask
            slot_of[key] = 0
            pool[slot, NEXT] = free
            free = signed(slot)
            if kind == CANCEL:
                continue
            ioc = False
        left = quantities[at]
        tick = ticks[at]
        while left:
            if side == 0:
                if best_ask > tick:
                    break
                level = unsigned(best_ask)
            else:
                if best_bid < tick:
                    break
                level = unsigned(best_bid)
            maker = levels[level, 0]
            standing = pool[maker, QUANTITY]
            fill = min(standing, left)
            count = _report(reports, count, TRADE, seq, pool[maker, PRICE], fill, pool[maker, ORDER_ID], order_id)
            left -= fill
            if fill < standing:
                pool[maker, QUANTITY] = standing - fill
                break
            slot_of[unsigned(pool[maker, KEY])] = 0
            after = link(pool[maker, NEXT])
            pool[maker, NEXT] = free
            free = signed(maker)
            levels[level, 0] = after
            if after:
                pool[after, PREVIOUS] = 0
                continue
            levels[level, 1] = 0
            bitmap.drop(words, offsets, 0, rows, signed(level))
            if side == 0:
                best_ask = bitmap.above(words, offsets, 0, rows, best_ask)
                best_ask = size if best_ask < 0 else best_ask
            else:
                best_bid = bitmap.below(words, offsets, 0, rows, best_bid)
        if left and ioc:
            count = _report(reports, count, CANCEL_ACK, seq, side, order_id, price, 0)
        elif left:
            if free:
                slot = link(free)
                free = pool[slot, NEXT]
            else:
                used += 1
                slot = link(used)
            level = unsigned(tick)
            last = levels[level, 1]
            pool[slot, QUANTITY] = left
            pool[slot, ORDER_ID] = order_id
            pool[slot, TICK] = tick
            pool[slot, PREVIOUS] = last
            pool[slot, NEXT] = 0
            pool[slot, SIDE] = side
            pool[slot, KEY] = keys[at]
            pool[slot, PRICE] = price
            slot_of[key] = slot
            levels[level, 1] = slot
            if last:
                pool[last, NEXT] = slot
            else:
                levels[level, 0] = slot
                bitmap.put(words, offsets, 0, rows, tick)
                if side == 0:
                    best_bid = max(best_bid, tick)
                else:
                    best_ask = min(best_ask, tick)
        if kind == MODIFY:
            count = _report(reports, count, MODIFY_ACK, seq, side, order_id, price, quantities[at])
    return count


@kernel
def intern_ids(order_ids: Array, table: Array, keys: Array) -> int:
    """Give each distinct id the next free number, by open addressing.

    Args:
        order_ids: any 64-bit values.
        table: a power of two of zeros, at least twice as long as `order_ids`; holds message index + 1.
        keys: filled with the numbers.

    Returns:
        How many distinct ids there are.
    """
    mask = unsigned(len(table) - 1)
    distinct = 0
    for index in range(len(order_ids)):
        one = order_ids[unsigned(index)]
        mixed = (one ^ (one >> unsigned(32))) * unsigned(0x9E3779B97F4A7C15)
        place = (mixed ^ (mixed >> unsigned(29))) & mask
        while True:
            there = table[place]
            if there == 0:
                table[place] = index + 1
                keys[unsigned(index)] = distinct
                distinct += 1
                break
            if order_ids[unsigned(there - 1)] == one:
                keys[unsigned(index)] = keys[unsigned(there - 1)]
                break
            place = (place + unsigned(1)) & mask
    return distinct


@inlined
def _digits(out: Array, at: int, value: Any) -> int:
    """Write an unsigned number in decimal."""
    end = at + 1
    rest = value // unsigned(10)
    while rest:
        end += 1
        rest //= unsigned(10)
    place = end - 1
    while place >= at:
        out[unsigned(place)] = np.uint8(48 + signed(value % unsigned(10)))
        value //= unsigned(10)
        place -= 1
    return end


@inlined
def _number(out: Array, at: int, value: int, signed: bool) -> int:
    """Write a comma and a number; ids are unsigned, everything else is signed."""
    out[unsigned(at)] = 44
    at += 1
    if signed and value < 0:
        out[unsigned(at)] = 45
        return _digits(out, at + 1, ~unsigned(value) + unsigned(1))
    return _digits(out, at, unsigned(value))


@kernel
def write_lines(reports: Array, first: int, last: int, out: Array) -> int:
    """Write reports as lines of text, each ended by a line feed.

    Args:
        reports: as `match_stream` fills them.
        first: the first row.
        last: the row after the last.
        out: at least 128 bytes a row.

    Returns:
        How many bytes were written.
    """
    at = 0
    for row in range(first, last):
        index = unsigned(row)
        kind = reports[index, 0]
        out[unsigned(at)] = np.uint8(48 + kind)
        at = _number(out, at + 1, reports[index, 1], True)
        if kind == TRADE:
            at = _number(out, at, reports[index, 2], True)
            at = _number(out, at, reports[index, 3], True)
            at = _number(out, at, reports[index, 4], False)
            at = _number(out, at, reports[index, 5], False)
        elif kind >= CANCEL_REJECT:
            at = _number(out, at, reports[index, 2], False)
        else:
            at = _number(out, at, reports[index, 2], True)
            at = _number(out, at, reports[index, 3], False)
            at = _number(out, at, reports[index, 4], True)
            if kind != CANCEL_ACK:
                at = _number(out, at, reports[index, 5], True)
        out[unsigned(at)] = 10
        at += 1
    return at
