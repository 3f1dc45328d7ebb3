"""What an order locks and a fill moves, on arrays: what `engine.exchange.locks` and `matching` do, for kernels.

What belongs here: locks, and balances changed by them.
What does not: which orders meet (see `replay`).
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels import wide
from engine.exchange.kernels.jit import inlined, signed, unsigned
from engine.exchange.kernels.replay_arrays import (
    AVAILABLE,
    BASE,
    LOCKED,
    PER_LOT_HIGH,
    PER_LOT_LOW,
    PER_TICK_LOT,
    QUOTE,
    World,
)
from engine.exchange.kernels.wide import Wide


@inlined
def row_of(world: World, account: int, asset: int) -> Any:
    """The balance row of a dense account in a dense asset."""
    return unsigned(account * len(world.fees) + asset)


@inlined
def base_units(world: World, market: int, quantity: int) -> tuple[Any, Any, bool]:
    """Lots in smallest base units, and whether they are too many."""
    at = unsigned(market)
    per_lot = (world.wides[at, PER_LOT_LOW], world.wides[at, PER_LOT_HIGH])
    low, high, beyond = wide.scaled(per_lot, unsigned(quantity))
    return low, high, beyond


@inlined
def notional(world: World, market: int, price: int, quantity: int) -> tuple[Any, Any, bool]:
    """A notional in smallest quote units, and whether it is too large."""
    per_tick_lot = unsigned(world.markets[unsigned(market), PER_TICK_LOT])
    low, high, beyond = wide.product(unsigned(price), unsigned(quantity), per_tick_lot)
    return low, high, beyond


@inlined
def lock(world: World, market: int, side: int, price: int, quantity: int, rate: int) -> tuple[Any, Any, bool]:
    """What an order locks, and whether it is too large."""
    if side:
        low, high, beyond = base_units(world, market, quantity)
        return low, high, beyond
    low, high, beyond = notional(world, market, price, quantity)
    total = wide.add((low, high), wide.fee((low, high), rate))
    return total[0], total[1], beyond or wide.is_negative(total)


@inlined
def read(world: World, row: Any, place: int) -> Wide:
    """One place of a balance."""
    return world.balances[row, place], world.balances[row, place + 1]


@inlined
def give(world: World, row: Any, place: int, units: Wide) -> None:
    """Add to one place of a balance."""
    low, high = wide.add(read(world, row, place), units)
    world.balances[row, place] = low
    world.balances[row, place + 1] = high


@inlined
def take(world: World, row: Any, place: int, units: Wide) -> None:
    """Take from one place of a balance."""
    low, high = wide.subtract(read(world, row, place), units)
    world.balances[row, place] = low
    world.balances[row, place + 1] = high


@inlined
def lock_row(world: World, market: int, side: int, account: int) -> Any:
    """The balance row that an order of a side locks in."""
    asset = world.markets[unsigned(market), BASE if side else QUOTE]
    return row_of(world, account, asset)


@inlined
def release(world: World, row: Any, units: Wide) -> None:
    """Locked -> available."""
    take(world, row, LOCKED, units)
    give(world, row, AVAILABLE, units)


@inlined
def buyer_pays(world: World, market: int, account: int, freed: Wide, quote: Wide, base: Wide, rate: int) -> Wide:
    """Pay notional and fee from what the lock frees, release the rest, receive the base; the fee is returned."""
    spare = wide.subtract(freed, quote)
    fee = wide.least(wide.fee(quote, rate), spare)
    row = row_of(world, account, world.markets[unsigned(market), QUOTE])
    take(world, row, LOCKED, freed)
    give(world, row, AVAILABLE, wide.subtract(spare, fee))
    give(world, row_of(world, account, world.markets[unsigned(market), BASE]), AVAILABLE, base)
    return fee


@inlined
def seller_pays(world: World, market: int, account: int, quote: Wide, base: Wide, rate: int) -> Wide:
    """Give the base from the lock, receive the notional less the fee; the fee is returned."""
    fee = wide.fee(quote, rate)
    take(world, row_of(world, account, world.markets[unsigned(market), BASE]), LOCKED, base)
    row = row_of(world, account, world.markets[unsigned(market), QUOTE])
    give(world, row, AVAILABLE, wide.subtract(quote, fee))
    return fee


@inlined
def collect(world: World, market: int, units: Wide) -> None:
    """Add a fee (or take a rebate) to what an asset's trades brought in."""
    asset = unsigned(world.markets[unsigned(market), QUOTE])
    low, high = wide.add((world.fees[asset, 0], world.fees[asset, 1]), units)
    world.fees[asset, 0] = low
    world.fees[asset, 1] = high


@inlined
def as_signed(word: Any) -> int:
    """The bits of an unsigned word, to store in a signed column."""
    return int(signed(word))
