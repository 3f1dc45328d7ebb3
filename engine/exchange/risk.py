"""What an order is checked against before anything is locked: limits, bands, the reference price.

What belongs here: why an order's price and quantity are refused, and how far a market order goes.
What does not: who may trade, and funds (see `orders`).

Everything that a check depends on was journalled before, so a replay decides alike: the limits of the market, its last
trade, the venue price and when it was sequenced.
"""

from __future__ import annotations

from engine.exchange.commands import MarketLimits, TimeInForce
from engine.exchange.events import RejectReason, Side
from engine.exchange.state import MAX_TICKS, EngineState, Market
from engine.money import PPM

_MARKET = TimeInForce.MARKET


def reference_price(state: EngineState, market: Market, now_us: int) -> int | None:
    """The price of the last trade, else a fresh venue price, in ticks; None where there is neither."""
    last = state.last_prices.get(market.market)
    if last is not None:
        return last
    venue = state.references.get(market.market)
    if venue is None or now_us - venue.sequenced_us > market.limits.reference_max_age_us:
        return None
    return venue.price_ticks


def limit_price(
    state: EngineState, market: Market, side: int, tif: int, price_ticks: int, quantity_lots: int, now_us: int
) -> int | RejectReason:
    """The limit that an order goes to, or why it is refused.

    Args:
        state: for the prices known.
        market: its limits count.
        side: 0 buy, 1 sell.
        tif: a `TimeInForce`.
        price_ticks: its limit; 0 or a worst price for a market order.
        quantity_lots: its quantity.
        now_us: the sequencer's time of the command.
    """
    limits = market.limits
    at_market = tif == _MARKET
    if price_ticks < 0 or (price_ticks == 0 and not at_market):
        return RejectReason.INVALID_PRICE
    if price_ticks > market.most_ticks:
        return RejectReason.TOO_LARGE
    reason = _quantity(limits, quantity_lots)
    if reason is not None:
        return reason
    if at_market:
        reference = reference_price(state, market, now_us)
        if reference is None:
            return RejectReason.NO_REFERENCE_PRICE
        limit, valued = _bound(limits, side, reference, price_ticks), reference
    else:
        if limits.band_ppm:
            reference = reference_price(state, market, now_us)
            if reference is not None and abs(price_ticks - reference) > reference * limits.band_ppm // PPM:
                return RejectReason.PRICE_OUTSIDE_BAND
        limit = valued = price_ticks
    if valued * quantity_lots * market.quote_units_per_tick_lot < limits.min_notional_units:
        return RejectReason.BELOW_MIN_NOTIONAL
    return limit


def _quantity(limits: MarketLimits, quantity_lots: int) -> RejectReason | None:
    if quantity_lots <= 0:
        return RejectReason.INVALID_QUANTITY
    if quantity_lots < limits.min_quantity_lots:
        return RejectReason.BELOW_MIN_QUANTITY
    if limits.max_quantity_lots and quantity_lots > limits.max_quantity_lots:
        return RejectReason.ABOVE_MAX_QUANTITY
    return None


def _bound(limits: MarketLimits, side: int, reference: int, worst: int) -> int:
    """How far a market order goes: the slippage from the reference price, and its own worst price."""
    slip = reference * limits.slippage_ppm // PPM
    if side == Side.BUY:
        limit = min(reference + slip, MAX_TICKS)
        return min(limit, worst) if worst else limit
    limit = max(reference - slip, 1)
    return max(limit, worst) if worst else limit
