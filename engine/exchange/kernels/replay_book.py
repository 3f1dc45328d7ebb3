"""The books of the replay kernel: a slot pool, tick-indexed levels and their bitmaps.

What belongs here: resting, leaving, what crosses, what fills whole.
What does not: money (see `replay_money`), and what a command does (see `replay`).
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels import bitmap
from engine.exchange.kernels.jit import inlined, link, signed, unsigned
from engine.exchange.kernels.replay_arrays import (
    ACCOUNT,
    BEST_ASK,
    BEST_BID,
    FIRST_ORDER,
    FREE,
    LEVELS,
    MARKET,
    MINE_NEXT,
    MINE_PREVIOUS,
    NEXT,
    ORDER_ID,
    POST_ONLY,
    PREVIOUS,
    PRICE,
    QUANTITY,
    RATE,
    RESERVE,
    ROWS,
    SIDE,
    TICK,
    TICKS,
    USED,
    WORDS,
    World,
)


@inlined
def first_against(world: World, market: int, side: int) -> Any:
    """The first slot in line on the side that an order of `side` meets, 0 for none."""
    at = unsigned(market)
    if side == 0:
        tick = world.markets[at, BEST_ASK]
        if tick >= world.markets[at, TICKS]:
            return link(0)
    else:
        tick = world.markets[at, BEST_BID]
        if tick < 0:
            return link(0)
    return world.levels[unsigned(world.markets[at, LEVELS] + tick), 0]


@inlined
def meets(world: World, slot: Any, side: int, limit: int) -> bool:
    """Whether the price of a standing slot is within the limit of an order that comes."""
    price = world.slots[slot, PRICE]
    return bool(price <= limit if side == 0 else price >= limit)


@inlined
def crosses(world: World, market: int, side: int, limit: int) -> bool:
    """Whether an order would match at all."""
    slot = first_against(world, market, side)
    return slot != 0 and meets(world, slot, side, limit)


@inlined
def fills_whole(world: World, market: int, side: int, limit: int, quantity: int, account: int) -> bool:
    """Whether an order would be filled whole at once, before it meets one of its own account."""
    at = unsigned(market)
    slot = first_against(world, market, side)
    offsets = world.offsets[at]
    while slot != 0:
        if not meets(world, slot, side, limit) or world.slots[slot, ACCOUNT] == account:
            return False
        standing = world.slots[slot, QUANTITY]
        if standing >= quantity:
            return True
        quantity -= standing
        after = link(world.slots[slot, NEXT])
        if after == 0:
            tick = world.slots[slot, TICK]
            start, rows = world.markets[at, WORDS], world.markets[at, ROWS]
            if side == 0:
                tick = bitmap.above(world.bits, offsets, start, rows, tick + 1)
            else:
                tick = bitmap.below(world.bits, offsets, start, rows, tick - 1)
            if tick < 0 or tick >= world.markets[at, TICKS]:
                return False
            after = world.levels[unsigned(world.markets[at, LEVELS] + tick), 0]
        slot = after
    return False


@inlined
def leave(world: World, slot: Any) -> None:
    """Take a slot out of its queue, its account's list and its id, and give it back."""
    slots = world.slots
    market = unsigned(slots[slot, MARKET])
    tick = slots[slot, TICK]
    level = unsigned(world.markets[market, LEVELS] + tick)
    before, after = link(slots[slot, PREVIOUS]), link(slots[slot, NEXT])
    if before != 0:
        slots[before, NEXT] = after
    else:
        world.levels[level, 0] = after
    if after != 0:
        slots[after, PREVIOUS] = before
    else:
        world.levels[level, 1] = before
    if before == 0 and after == 0:
        offsets = world.offsets[market]
        start, rows = world.markets[market, WORDS], world.markets[market, ROWS]
        bitmap.drop(world.bits, offsets, start, rows, tick)
        if tick == world.markets[market, BEST_BID]:
            world.markets[market, BEST_BID] = bitmap.below(world.bits, offsets, start, rows, tick)
        elif tick == world.markets[market, BEST_ASK]:
            found = bitmap.above(world.bits, offsets, start, rows, tick)
            world.markets[market, BEST_ASK] = world.markets[market, TICKS] if found < 0 else found
    before, after = link(slots[slot, MINE_PREVIOUS]), link(slots[slot, MINE_NEXT])
    if before != 0:
        slots[before, MINE_NEXT] = after
    else:
        world.accounts[unsigned(slots[slot, ACCOUNT]), FIRST_ORDER] = after
    if after != 0:
        slots[after, MINE_PREVIOUS] = before
    world.slot_of[unsigned(slots[slot, ORDER_ID])] = 0
    slots[slot, NEXT] = world.counters[FREE]
    world.counters[FREE] = signed(slot)


@inlined
def rest(
    world: World,
    market: int,
    side: int,
    order_id: int,
    account: int,
    price: int,
    tick: int,
    quantity: int,
    rate: int,
    post_only: int,
    reserve: int,
) -> None:
    """Put an order at the end of its level."""
    slots = world.slots
    if world.counters[FREE]:
        slot = link(world.counters[FREE])
        world.counters[FREE] = slots[slot, NEXT]
    else:
        world.counters[USED] += 1
        slot = link(world.counters[USED])
    at = unsigned(market)
    level = unsigned(world.markets[at, LEVELS] + tick)
    last = world.levels[level, 1]
    slots[slot, QUANTITY] = quantity
    slots[slot, ORDER_ID] = order_id
    slots[slot, PRICE] = price
    slots[slot, ACCOUNT] = account
    slots[slot, NEXT] = 0
    slots[slot, PREVIOUS] = last
    slots[slot, RATE] = rate
    slots[slot, TICK] = tick
    slots[slot, SIDE] = side
    slots[slot, MARKET] = market
    slots[slot, POST_ONLY] = post_only
    slots[slot, RESERVE] = reserve
    first = link(world.accounts[unsigned(account), FIRST_ORDER])
    slots[slot, MINE_NEXT] = first
    slots[slot, MINE_PREVIOUS] = 0
    if first != 0:
        slots[first, MINE_PREVIOUS] = slot
    world.accounts[unsigned(account), FIRST_ORDER] = slot
    world.slot_of[unsigned(order_id)] = slot
    world.levels[level, 1] = slot
    if last != 0:
        slots[last, NEXT] = slot
        return
    world.levels[level, 0] = slot
    bitmap.put(world.bits, world.offsets[at], world.markets[at, WORDS], world.markets[at, ROWS], tick)
    if side == 0:
        world.markets[at, BEST_BID] = max(world.markets[at, BEST_BID], tick)
    else:
        world.markets[at, BEST_ASK] = min(world.markets[at, BEST_ASK], tick)
