"""What the replay kernel checks an order against: reads of a record, accounts, client references, limits and bands.

What belongs here: `engine.exchange.risk` compiled, and the tables that its questions need.
What does not: what follows from the answers (see `replay`).

Reasons are `engine.exchange.events.RejectReason`.
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels import replay_money as money
from engine.exchange.kernels import wide
from engine.exchange.kernels.jit import inlined, kernel, signed, unsigned
from engine.exchange.kernels.replay_arrays import (
    BAND,
    FRESH_FROM,
    LAST_PRICE,
    LEAST_LOTS,
    MAX_AGE,
    MOST_LOTS,
    MOST_TICKS,
    NOTIONAL_HIGH,
    NOTIONAL_LOW,
    SIDE_BYTE,
    SLIPPAGE,
    TEXT_WORDS,
    TIF_BYTE,
    VENUE_PRICE,
    VENUE_TIME,
    W_ACCOUNT,
    W_MARKET,
    W_PRICE,
    W_QUANTITY,
    W_RESERVE,
    W_TEXT,
    World,
)

GTC, POST_ONLY_TIF, FOK, MARKET_TIF = 0, 3, 2, 4

OK = 0
UNKNOWN_ACCOUNT, UNKNOWN_MARKET, UNKNOWN_ORDER = 1, 2, 4
INVALID_PRICE, INVALID_QUANTITY, INSUFFICIENT_FUNDS, DUPLICATE_REFERENCE = 5, 6, 7, 8
NOT_THE_OWNER, INVALID_CUT_OFF, TOO_LARGE, ACCOUNT_MAY_NOT_TRADE = 10, 12, 13, 14
BELOW_MIN_QUANTITY, ABOVE_MAX_QUANTITY, BELOW_MIN_NOTIONAL, PRICE_OUTSIDE_BAND = 18, 19, 20, 21
NO_REFERENCE_PRICE, WOULD_TAKE, NOT_FILLABLE, REFERENCE_CONFLICT, PRICE_ABOVE_RESERVE = 22, 23, 24, 25, 27

_MAX_TICKS = 2**63 - 1
_MILLION = 1_000_000
_SHIFT = unsigned(32)
_MIX = unsigned(0x9E3779B97F4A7C15)


@inlined
def word(world: World, record: Any, field: int) -> Any:
    """An unsigned 64-bit field of a record."""
    return unsigned(world.words[record, field]) | (unsigned(world.words[record, field + 1]) << _SHIFT)


@inlined
def _mixed(value: Any) -> Any:
    value = (value ^ (value >> _SHIFT)) * _MIX
    return value ^ (value >> unsigned(29))


@inlined
def find_account(world: World, number: Any) -> int:
    """The dense account of a number, -1 for none."""
    mask = unsigned(len(world.account_keys) - 1)
    place = _mixed(number) & mask
    while world.account_values[place]:
        if world.account_keys[place] == number:
            return int(signed(world.account_values[place]) - 1)
        place = (place + unsigned(1)) & mask
    return -1


@kernel
def add_account(world: World, number: Any, dense: int) -> None:
    """Make an account number known."""
    mask = unsigned(len(world.account_keys) - 1)
    place = _mixed(number) & mask
    while world.account_values[place]:
        place = (place + unsigned(1)) & mask
    world.account_keys[place] = number
    world.account_values[place] = dense + 1


@inlined
def reference_place(world: World, record: Any) -> Any:
    """Where a record's account and client reference are in the table, or would be."""
    mask = unsigned(len(world.references) - 1)
    place = _mixed(word(world, record, W_ACCOUNT))
    for index in range(TEXT_WORDS):
        part = world.words[record, unsigned(W_TEXT + index)]
        if part == 0:
            break
        place = _mixed(place ^ unsigned(part))
    place &= mask
    while world.references[place]:
        there = unsigned(world.references[place] - 1)
        same = word(world, there, W_ACCOUNT) == word(world, record, W_ACCOUNT)
        for index in range(TEXT_WORDS):
            at = unsigned(W_TEXT + index)
            same = same and world.words[there, at] == world.words[record, at]
        if same:
            return place
        place = (place + unsigned(1)) & mask
    return place


@inlined
def known_reference(world: World, place: Any, record: Any) -> int:
    """Whether the reference at a place still counts, and for the same order."""
    found = signed(world.references[place])
    # An order's id is its record + 1, so a reference of a former day counts while its order has a slot.
    if found == 0 or (found - 1 < world.counters[FRESH_FROM] and world.slot_of[unsigned(found)] == 0):
        return OK
    there = unsigned(found - 1)
    same = (
        world.raw[there, SIDE_BYTE] == world.raw[record, SIDE_BYTE]
        and world.raw[there, TIF_BYTE] == world.raw[record, TIF_BYTE]
        and (world.words[there, W_MARKET] & 0xFFFF) == (world.words[record, W_MARKET] & 0xFFFF)
        and word(world, there, W_PRICE) == word(world, record, W_PRICE)
        and word(world, there, W_QUANTITY) == word(world, record, W_QUANTITY)
        and word(world, there, W_RESERVE) == word(world, record, W_RESERVE)
    )
    return DUPLICATE_REFERENCE if same else REFERENCE_CONFLICT


@inlined
def _share(price: int, ppm: int) -> int:
    """A price's share in parts per million, rounded down; at most the price."""
    whole = price // _MILLION
    return whole * ppm + (price - whole * _MILLION) * ppm // _MILLION


@inlined
def _reference_price(world: World, market: Any, now: int) -> int:
    """Last trade, else a fresh venue price, 0 for none."""
    last = world.markets[market, LAST_PRICE]
    if last:
        return int(last)
    venue = world.markets[market, VENUE_PRICE]
    if venue and now - world.markets[market, VENUE_TIME] <= world.markets[market, MAX_AGE]:
        return int(venue)
    return 0


@inlined
def _quantity(world: World, market: Any, quantity: int) -> int:
    if quantity <= 0:
        return INVALID_QUANTITY
    if unsigned(quantity) < unsigned(world.markets[market, LEAST_LOTS]):
        return BELOW_MIN_QUANTITY
    most = unsigned(world.markets[market, MOST_LOTS])
    return ABOVE_MAX_QUANTITY if most and unsigned(quantity) > most else OK


@inlined
def limit_of(world: World, market: Any, side: int, tif: int, price: int, quantity: int, now: int) -> tuple[int, int]:
    """`risk.limit_price`: a reason, or OK and the limit."""
    if price < 0 or (price == 0 and tif != MARKET_TIF):
        return INVALID_PRICE, 0
    if price > world.markets[market, MOST_TICKS]:
        return TOO_LARGE, 0
    reason = _quantity(world, market, quantity)
    if reason:
        return reason, 0
    limit = valued = price
    if tif == MARKET_TIF:
        valued = _reference_price(world, market, now)
        if valued == 0:
            return NO_REFERENCE_PRICE, 0
        slip = _share(valued, world.markets[market, SLIPPAGE])
        if side == 0:
            limit = _MAX_TICKS if slip > _MAX_TICKS - valued else valued + slip
            limit = min(limit, price) if price else limit
        else:
            limit = max(max(valued - slip, 1), price)
    elif world.markets[market, BAND]:
        reference = _reference_price(world, market, now)
        if reference and abs(price - reference) > _share(reference, world.markets[market, BAND]):
            return PRICE_OUTSIDE_BAND, 0
    least = (world.wides[market, NOTIONAL_LOW], world.wides[market, NOTIONAL_HIGH])
    if least[0] or least[1]:
        low, high, beyond = money.notional(world, market, valued, quantity)
        if not beyond and wide.less((low, high), least):
            return BELOW_MIN_NOTIONAL, 0
    return OK, limit
