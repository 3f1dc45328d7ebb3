"""Lots in arrays: every event of a position in order, the cost of what leaves, and what is left.

What belongs here: the loop over positions, for the five methods. What does not: the same in plain Python, which says
what this must be (see `engine.valuation.exact`), and where events come from.

Amounts are 128 bits in two unsigned words, [n, 2], low one first. Positions lie one after the other: events of
position g are `event_from[g]` to `event_from[g + 1]`, its lots lie from `lot_from[g]` on, with room for what it had and
acquires.
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels.jit import Array, inlined, kernel, unsigned
from engine.exchange.kernels.wide import Wide, add, less, subtract
from engine.valuation.kernels.share import dearer, share

Word = Any

FIFO, LIFO, HIFO, LOFO, AVERAGE = 0, 1, 2, 3, 4
DONE, OVERSOLD, OVERFLOW = 0, 1, 2
_ZERO = unsigned(0)
_TOP = unsigned(63)


@inlined
def _get(amounts: Array, at: int) -> Wide:
    return amounts[at, 0], amounts[at, 1]


@inlined
def _put(amounts: Array, at: int, value: Wide) -> None:
    amounts[at, 0] = value[0]
    amounts[at, 1] = value[1]


@inlined
def _goes_first(method: int, rank_cost: Array, rank_quantity: Array, one: int, other: int) -> bool:
    """Whether a lot is used before another: by the price that it was acquired at, the earlier of equals."""
    a, b = _get(rank_cost, one), _get(rank_quantity, one)
    c, d = _get(rank_cost, other), _get(rank_quantity, other)
    if dearer(a, b, c, d):
        return method == HIFO
    if dearer(c, d, a, b):
        return method == LOFO
    return one < other


@kernel
def _push(method: int, heap: Array, base: int, size: int, slot: int, rank_cost: Array, rank_quantity: Array) -> None:
    """Put a slot into the heap of a position that holds `size` others."""
    at = size
    while at > 0:
        parent = (at - 1) // 2
        if not _goes_first(method, rank_cost, rank_quantity, slot, heap[base + parent]):
            break
        heap[base + at] = heap[base + parent]
        at = parent
    heap[base + at] = slot


@kernel
def _pop(method: int, heap: Array, base: int, size: int, rank_cost: Array, rank_quantity: Array) -> None:
    """Take the first slot out of the heap of a position that holds `size`."""
    last = heap[base + size - 1]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and _goes_first(
            method, rank_cost, rank_quantity, heap[base + child + 1], heap[base + child]
        ):
            child += 1
        if not _goes_first(method, rank_cost, rank_quantity, heap[base + child], last):
            break
        heap[base + at] = heap[base + child]
        at = child
    heap[base + at] = last


@kernel
def _gather(
    method: int, base: int, count: int, lot_quantity: Array, lot_cost: Array, heap: Array, rank_quantity: Array,
    rank_cost: Array,
) -> tuple[Word, Word, Word, Word, bool]:  # fmt: skip
    """Quantity and cost of the lots that a position begins with, and whether one is 2^127 or more; fills its heap."""
    held, spent = (_ZERO, _ZERO), (_ZERO, _ZERO)
    beyond = False
    for n in range(count):
        held = add(held, _get(lot_quantity, base + n))
        spent = add(spent, _get(lot_cost, base + n))
        beyond = beyond or _is_beyond(held, spent)
        if method in (HIFO, LOFO):
            _push(method, heap, base, n, base + n, rank_cost, rank_quantity)
    return held[0], held[1], spent[0], spent[1], beyond


@inlined
def _is_beyond(held: Wide, spent: Wide) -> bool:
    return bool((held[1] >> _TOP) != _ZERO or (spent[1] >> _TOP) != _ZERO)


@inlined
def _next(method: int, base: int, head: int, count: int, heap: Array) -> int:
    """The slot that a disposal takes from."""
    if method == FIFO:
        return base + head
    if method in (LIFO, AVERAGE):
        return base + count - 1
    return int(heap[base])


@inlined
def _dispose(
    method: int, event: int, base: int, head: int, count: int, alive: int, told: int, low: Word, high: Word,
    lot_quantity: Array, lot_cost: Array, rank_quantity: Array, rank_cost: Array, origin: Array, heap: Array,
    fragment_event: Array, fragment_origin: Array, fragment_quantity: Array, fragment_cost: Array,
) -> tuple[Word, Word, int, int, int, int]:  # fmt: skip
    """Take a quantity out of a position that holds it: its cost, and head, count, alive and told afterwards."""
    rest, total = (low, high), (_ZERO, _ZERO)
    while rest[0] != _ZERO or rest[1] != _ZERO:
        slot = _next(method, base, head, count, heap)
        there, worth = _get(lot_quantity, slot), _get(lot_cost, slot)
        taken, part = there, worth
        if less(rest, there):
            taken, part = rest, share(worth, rest, there)
        elif method == FIFO:
            head += 1
        elif method in (LIFO, AVERAGE):
            count -= 1
        else:
            _pop(method, heap, base, alive, rank_cost, rank_quantity)
            alive -= 1
        _put(lot_quantity, slot, subtract(there, taken))
        _put(lot_cost, slot, subtract(worth, part))
        rest = subtract(rest, taken)
        total = add(total, part)
        if fragment_event.shape[0] > 0:
            fragment_event[told] = event
            fragment_origin[told] = origin[slot]
            _put(fragment_quantity, told, taken)
            _put(fragment_cost, told, part)
            told += 1
    return total[0], total[1], head, count, alive, told


@kernel
def book_lots(
    method: int, first: int, last: int, event_from: Array, incoming: Array, quantity: Array, value: Array,
    ranked: Array, lot_from: Array, lot_count: Array, lot_quantity: Array, lot_cost: Array, rank_quantity: Array,
    rank_cost: Array, origin: Array, heap: Array, cost: Array, fragment_from: Array, fragment_count: Array,
    fragment_event: Array, fragment_origin: Array, fragment_quantity: Array, fragment_cost: Array, status: Array,
    fault: Array,
) -> None:  # fmt: skip
    """Book the events of the positions `first` to `last`, exclusive.

    Args:
        method: one of the five.
        first: position to begin with.
        last: position to end before.
        event_from: where the events of a position begin, int64[positions + 1].
        incoming: whether an event acquires; else it disposes. bool[events].
        quantity: of an event, uint64[events, 2].
        value: what an acquisition costs, uint64[events, 2]; unused for a disposal.
        ranked: what an acquisition cost without what fees added to it: HIFO and LOFO go by that; uint64[events, 2].
        lot_from: where the lots of a position lie, int64[positions + 1].
        lot_count: in: how many lots it has; out: how many slots are in use, empty ones among them. int64[positions].
        lot_quantity: of a lot, in and out, uint64[slots, 2].
        lot_cost: of a lot, in and out.
        rank_quantity: quantity that a lot was acquired with, which with `rank_cost` decides the order of HIFO and LOFO.
        rank_cost: what it was acquired for, without fees.
        origin: of a lot: -1 - n for opening slot n, else the event that acquired it. int64[slots], in and out.
        heap: scratch, int64[slots].
        cost: out, of a disposal, uint64[events, 2].
        fragment_from: where the fragments of a position go, int64[positions + 1]; with `fragment_event` empty, unused.
        fragment_count: out, how many there are, int64[positions].
        fragment_event: out, the disposal of a fragment.
        fragment_origin: out, the lot that it came from, as in `origin`.
        fragment_quantity: out.
        fragment_cost: out.
        status: out, of a position: DONE, OVERSOLD or OVERFLOW; what follows the fault is not booked.
        fault: out, the event that could not be booked, or for an overflow of what was there, the first.
    """
    for g in range(first, last):
        base, count, head, told = lot_from[g], lot_count[g], 0, fragment_from[g]
        low, high, spent_low, spent_high, beyond = _gather(
            method, base, count, lot_quantity, lot_cost, heap, rank_quantity, rank_cost
        )
        held, spent, alive = (low, high), (spent_low, spent_high), count
        status[g] = OVERFLOW if beyond else DONE
        fault[g] = event_from[g]
        if beyond:
            continue
        if method == AVERAGE and count > 0:
            _put(lot_quantity, base, held)
            _put(lot_cost, base, spent)
            count = 1
        for e in range(event_from[g], event_from[g + 1]):
            amount = _get(quantity, e)
            if not incoming[e]:
                if less(held, amount):
                    status[g] = OVERSOLD
                    fault[g] = e
                    break
                low, high, head, count, alive, told = _dispose(
                    method, e, base, head, count, alive, told, amount[0], amount[1], lot_quantity, lot_cost,
                    rank_quantity, rank_cost, origin, heap, fragment_event, fragment_origin, fragment_quantity,
                    fragment_cost,
                )  # fmt: skip
                held = subtract(held, amount)
                spent = subtract(spent, (low, high))
                cost[e, 0] = low
                cost[e, 1] = high
                continue
            paid = _get(value, e)
            held = add(held, amount)
            spent = add(spent, paid)
            if _is_beyond(held, spent):
                status[g] = OVERFLOW
                fault[g] = e
                break
            if method == AVERAGE and count > 0:
                _put(lot_quantity, base, held)
                _put(lot_cost, base, spent)
                continue
            slot = base + count
            _put(lot_quantity, slot, amount)
            _put(lot_cost, slot, paid)
            _put(rank_quantity, slot, amount)
            _put(rank_cost, slot, _get(ranked, e))
            origin[slot] = e
            if method in (HIFO, LOFO):
                _push(method, heap, base, alive, slot, rank_cost, rank_quantity)
            count += 1
            alive += 1
        lot_count[g] = count
        fragment_count[g] = told - fragment_from[g]
