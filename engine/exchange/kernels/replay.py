"""The replay kernel: orders of a journal decided, locked, matched and settled on arrays.

What belongs here: what `engine.exchange.orders` and `engine.exchange.matching` do, decision by decision.
What does not: commands that are rare or carry names (the kernel stops before one, and the online engine's own code
applies it to the same balances: see `engine.exchange.replay_numba`).

The order of the checks is the contract between both engines, and a
differential test over random commands holds it.
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels import replay_book as book
from engine.exchange.kernels import replay_money as money
from engine.exchange.kernels import wide
from engine.exchange.kernels.jit import inlined, kernel, link, signed, unsigned
from engine.exchange.kernels.replay_arrays import (
    ACCOUNT,
    AVAILABLE,
    FIRST_ORDER,
    GENESIS,
    KIND_BYTE,
    LAST_PRICE,
    LOCKED,
    MAKER_RATE,
    MARKET,
    MAY_TRADE,
    MINE_NEXT,
    ORDER_ID,
    POST_ONLY,
    PRICE,
    QUANTITY,
    RATE,
    RESERVE,
    SIDE,
    SIDE_BYTE,
    T_MAKER,
    T_MAKER_FEE,
    T_MAKER_FEE_HIGH,
    T_MAKER_ORDER,
    T_MAKER_RATE,
    T_MARKET,
    T_PRICE,
    T_QUANTITY,
    T_SEQ,
    T_SIDE,
    T_TAKER,
    T_TAKER_FEE,
    T_TAKER_FEE_HIGH,
    T_TAKER_ORDER,
    T_TAKER_RATE,
    TAKER_RATE,
    TIF_BYTE,
    TRADES,
    W_ACCOUNT,
    W_MARKET,
    W_ORDER,
    W_PRICE,
    W_QUANTITY,
    W_RESERVE,
    W_TEXT,
    W_TIME,
    World,
)
from engine.exchange.kernels.replay_checks import (
    ACCOUNT_MAY_NOT_TRADE,
    FOK,
    GTC,
    INSUFFICIENT_FUNDS,
    INVALID_CUT_OFF,
    INVALID_PRICE,
    INVALID_QUANTITY,
    NOT_FILLABLE,
    NOT_THE_OWNER,
    OK,
    POST_ONLY_TIF,
    PRICE_ABOVE_RESERVE,
    TOO_LARGE,
    UNKNOWN_ACCOUNT,
    UNKNOWN_MARKET,
    UNKNOWN_ORDER,
    WOULD_TAKE,
    find_account,
    known_reference,
    limit_of,
    reference_place,
    word,
)

NEW_ORDER, CANCEL_ORDER, CANCEL_ALL, REDUCE_ORDER, AMEND_ORDER = 10, 11, 13, 14, 15


@inlined
def _own(world: World, record: Any, account: int) -> tuple[int, Any]:
    """A reason, or OK and the slot of the resting order that a record names."""
    if world.counters[GENESIS]:
        return INVALID_CUT_OFF, link(0)
    if account < 0:
        return UNKNOWN_ACCOUNT, link(0)
    order_id = word(world, record, W_ORDER)
    if order_id >= unsigned(len(world.slot_of)):
        return UNKNOWN_ORDER, link(0)
    slot = world.slot_of[order_id]
    if slot == 0:
        return UNKNOWN_ORDER, link(0)
    if world.slots[slot, ACCOUNT] != account:
        return NOT_THE_OWNER, link(0)
    return OK, slot


@inlined
def _lock_price(reserve: int, price: int) -> int:
    """The price that a bid locks at."""
    return reserve if reserve else price


@inlined
def _locked_by(world: World, slot: Any) -> wide.Wide:
    """What a resting slot has locked."""
    slots = world.slots
    low, high, _ = money.lock(
        world,
        slots[slot, MARKET],
        slots[slot, SIDE],
        _lock_price(slots[slot, RESERVE], slots[slot, PRICE]),
        slots[slot, QUANTITY],
        slots[slot, RATE],
    )
    return low, high


@inlined
def _cancel(world: World, slot: Any) -> None:
    """Release a resting slot's lock and take it out."""
    slots = world.slots
    row = money.lock_row(world, slots[slot, MARKET], slots[slot, SIDE], slots[slot, ACCOUNT])
    money.release(world, row, _locked_by(world, slot))
    book.leave(world, slot)


@inlined
def cancel_resting(world: World, record: int) -> int:
    """CANCEL_ORDER, CANCEL_ALL and REDUCE_ORDER: a reason, or OK and it is done."""
    at = unsigned(record)
    kind = world.raw[at, KIND_BYTE]
    account = find_account(world, word(world, at, W_ACCOUNT))
    if kind == CANCEL_ALL:
        number = world.words[at, W_MARKET] & 0xFFFF
        if world.counters[GENESIS]:
            return INVALID_CUT_OFF
        if account < 0:
            return UNKNOWN_ACCOUNT
        market = signed(world.market_of[number])
        if number and market < 0:
            return UNKNOWN_MARKET
        slot = link(world.accounts[unsigned(account), FIRST_ORDER])
        while slot != 0:
            after = link(world.slots[slot, MINE_NEXT])
            if number == 0 or world.slots[slot, MARKET] == market:
                _cancel(world, slot)
            slot = after
        return OK
    reason, slot = _own(world, at, account)
    if reason:
        return reason
    if kind == REDUCE_ORDER:
        fewer = signed(word(world, at, W_QUANTITY))
        if fewer <= 0:
            return INVALID_QUANTITY
        if fewer < world.slots[slot, QUANTITY]:
            before = _locked_by(world, slot)
            world.slots[slot, QUANTITY] -= fewer
            freed = wide.subtract(before, _locked_by(world, slot))
            row = money.lock_row(world, world.slots[slot, MARKET], world.slots[slot, SIDE], account)
            money.release(world, row, freed)
            return OK
    _cancel(world, slot)
    return OK


@inlined
def _fill(
    world: World,
    record: int,
    market: int,
    side: int,
    account: int,
    order_id: int,
    slot: Any,
    quantity: int,
    freed: wide.Wide,
    rate: int,
) -> None:
    """`fills.fill`: settle one fill at the price of the maker in `slot` and write the trade.

    `freed` is what the fill frees of the taker's lock, if it buys.
    """
    slots = world.slots
    price, maker = slots[slot, PRICE], slots[slot, ACCOUNT]
    low, high, _ = money.notional(world, market, price, quantity)
    quote = (low, high)
    low, high, _ = money.base_units(world, market, quantity)
    base = (low, high)
    maker_rate = world.accounts[unsigned(maker), MAKER_RATE]
    if side == 0:
        taker_fee = money.buyer_pays(world, market, account, freed, quote, base, rate)
        maker_fee = money.seller_pays(world, market, maker, quote, base, maker_rate)
    else:
        standing, locked_rate = slots[slot, QUANTITY], slots[slot, RATE]
        maker_rate = min(maker_rate, locked_rate)
        locked_at = _lock_price(slots[slot, RESERVE], price)
        low, high, _ = money.lock(world, market, 0, locked_at, standing, locked_rate)
        before = (low, high)
        low, high, _ = money.lock(world, market, 0, locked_at, standing - quantity, locked_rate)
        maker_fee = money.buyer_pays(world, market, maker, wide.subtract(before, (low, high)), quote, base, maker_rate)
        taker_fee = money.seller_pays(world, market, account, quote, base, rate)
    money.collect(world, market, wide.add(taker_fee, maker_fee))
    world.markets[unsigned(market), LAST_PRICE] = price
    row = unsigned(world.counters[TRADES])
    world.counters[TRADES] += 1
    trades = world.trades
    trades[row, T_SEQ] = record + 1
    trades[row, T_PRICE] = price
    trades[row, T_QUANTITY] = quantity
    trades[row, T_MAKER_ORDER] = slots[slot, ORDER_ID]
    trades[row, T_TAKER_ORDER] = order_id
    trades[row, T_MAKER] = maker
    trades[row, T_TAKER] = account
    trades[row, T_MARKET] = market
    trades[row, T_SIDE] = side
    trades[row, T_MAKER_RATE] = maker_rate
    trades[row, T_TAKER_RATE] = rate
    trades[row, T_MAKER_FEE] = money.as_signed(maker_fee[0])
    trades[row, T_MAKER_FEE_HIGH] = money.as_signed(maker_fee[1])
    trades[row, T_TAKER_FEE] = money.as_signed(taker_fee[0])
    trades[row, T_TAKER_FEE_HIGH] = money.as_signed(taker_fee[1])


@inlined
def place(world: World, record: int) -> int:  # noqa: C901 - the contract's checks, in their order
    """NEW_ORDER and AMEND_ORDER: a reason, or OK and it is decided, locked, matched and rested or released."""
    at = unsigned(record)
    account = find_account(world, word(world, at, W_ACCOUNT))
    price, quantity = signed(word(world, at, W_PRICE)), signed(word(world, at, W_QUANTITY))
    now = signed(word(world, at, W_TIME))
    amends = world.raw[at, KIND_BYTE] == AMEND_ORDER
    slot, key = link(0), unsigned(0)
    keyed = False
    if amends:
        reason, slot = _own(world, at, account)
        if reason:
            return reason
        if not world.accounts[unsigned(account), MAY_TRADE]:
            return ACCOUNT_MAY_NOT_TRADE
        side, tif = world.slots[slot, SIDE], GTC
        post_only = world.slots[slot, POST_ONLY]
        market = world.slots[slot, MARKET]
        order_id = world.slots[slot, ORDER_ID]
        reserve = world.slots[slot, RESERVE]
    else:
        if world.counters[GENESIS]:
            return INVALID_CUT_OFF
        if account < 0:
            return UNKNOWN_ACCOUNT
        keyed = world.words[at, W_TEXT] != 0
        if keyed:
            key = reference_place(world, at)
            reason = known_reference(world, key, at)
            if reason:
                return reason
        market = signed(world.market_of[world.words[at, W_MARKET] & 0xFFFF])
        if market < 0:
            return UNKNOWN_MARKET
        if not world.accounts[unsigned(account), MAY_TRADE]:
            return ACCOUNT_MAY_NOT_TRADE
        side, tif = signed(world.raw[at, SIDE_BYTE]), signed(world.raw[at, TIF_BYTE])
        post_only = signed(1) if tif == POST_ONLY_TIF else signed(0)
        order_id = signed(record + 1)
        reserve = signed(word(world, at, W_RESERVE))
    reason, limit = limit_of(world, unsigned(market), side, tif, price, quantity, now)
    if reason:
        return reason
    if side == 0 and reserve and reserve < limit:
        return PRICE_ABOVE_RESERVE if amends else INVALID_PRICE
    locked_at = _lock_price(reserve, limit)
    rate = world.accounts[unsigned(account), TAKER_RATE]
    low, high, beyond = money.lock(world, market, side, locked_at, quantity, rate)
    if beyond:
        return TOO_LARGE
    lock = (low, high)
    row = money.lock_row(world, market, side, account)
    spendable = money.read(world, row, AVAILABLE)
    freed = (unsigned(0), unsigned(0))
    if amends:
        freed = _locked_by(world, slot)
        spendable = wide.add(spendable, freed)
    if wide.less(spendable, lock):
        return INSUFFICIENT_FUNDS
    if post_only and book.crosses(world, market, side, limit):
        return WOULD_TAKE
    if tif == FOK and not book.fills_whole(world, market, side, limit, quantity, account):
        return NOT_FILLABLE
    if keyed:
        world.references[key] = record + 1
    if amends:
        money.release(world, row, freed)
        book.leave(world, slot)
    money.take(world, row, AVAILABLE, lock)
    money.give(world, row, LOCKED, lock)
    left = quantity
    crossed_self = False
    while left:
        slot = book.first_against(world, market, side)
        if slot == 0 or not book.meets(world, slot, side, limit):
            break
        if world.slots[slot, ACCOUNT] == account:
            crossed_self = True
            break
        standing = world.slots[slot, QUANTITY]
        fill = min(standing, left)
        after = lock
        if side == 0:
            low, high, beyond = money.lock(world, market, side, locked_at, left - fill, rate)
            after = (low, high)
        _fill(world, record, market, side, account, order_id, slot, fill, wide.subtract(lock, after), rate)
        lock = after
        left -= fill
        if fill == standing:
            book.leave(world, slot)
        else:
            world.slots[slot, QUANTITY] = standing - fill
    if left == 0:
        return OK
    if crossed_self or (tif != GTC and tif != POST_ONLY_TIF):
        low, high, beyond = money.lock(world, market, side, locked_at, left, rate)
        money.release(world, row, (low, high))
        return OK
    book.rest(world, market, side, order_id, account, limit, world.ticks[at], left, rate, post_only, reserve)
    return OK


@kernel
def run(world: World, first: int, last: int) -> int:
    """Apply order commands from a record on, up to another or to one that is not an order command.

    Returns:
        The record that it stopped before.
    """
    for record in range(first, last):
        kind = world.raw[unsigned(record), KIND_BYTE]
        if kind in (NEW_ORDER, AMEND_ORDER):
            world.reasons[unsigned(record)] = place(world, record)
        elif kind in (CANCEL_ORDER, CANCEL_ALL, REDUCE_ORDER):
            world.reasons[unsigned(record)] = cancel_resting(world, record)
        else:
            return record
    return last
