"""What an order has locked while it rests, and giving that back.

What belongs here: the size of a lock, and its release.
What does not: what a fill moves (see `matching`), which orders are taken (see `orders`).

An order's lock is always exactly `lock_units` of what is left of it: for a bid the notional at its limit (at its
reserve price, if it has one) plus the fee on that, rounded up, at the taker rate when it was accepted; for an ask the
base.
"""

from __future__ import annotations

from engine.exchange.book import BUY, SELL, Order
from engine.exchange.state import AVAILABLE, LOCKED, EngineState, Market
from engine.money import PPM


def lock_units(market: Market, side: int, price_ticks: int, quantity_lots: int, rate_ppm: int) -> int:
    """What a resting or new order locks: quote units for a bid (notional and fee), base units for an ask."""
    if side == SELL:
        return quantity_lots * market.base_units_per_lot
    notional = price_ticks * quantity_lots * market.quote_units_per_tick_lot
    return notional - (-notional * rate_ppm) // PPM


def lock_of(market: Market, order: Order) -> int:
    """What an order has locked."""
    return lock_units(market, order.side, order.reserve or order.price, order.quantity, order.rate_ppm)


def rows_of(state: EngineState, market: Market, order: Order) -> tuple[list[int], list[int]]:
    """The balances of what an order gives and what it takes; a balance is one list for as long as the engine runs."""
    if order.pays is None or order.gets is None:
        given, taken = (market.quote, market.base) if order.side == BUY else (market.base, market.quote)
        order.pays, order.gets = state.row(order.account, given), state.row(order.account, taken)
    return order.pays, order.gets


def release(state: EngineState, market: Market, order: Order, units: int) -> None:
    """Give so much of an order's lock back."""
    row = order.pays or rows_of(state, market, order)[0]
    row[LOCKED] -= units
    row[AVAILABLE] += units
