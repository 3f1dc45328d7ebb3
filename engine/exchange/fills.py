"""What a fill moves: both sides settled at the maker's price, fees taken, the improvement released.

What belongs here: locks, and one fill.
What does not: which orders meet (see `orders`), and the queue (see `book`).

An order's lock is always exactly `lock_units` of what is left of it: for a bid the notional at its limit (at its
reserve price, if it has one) plus the fee on that, rounded up, at the taker rate when it was accepted; for an ask the
base. A fill releases the difference of two such locks and pays from it, so nothing is ever left locked and a bid's
fills never cost more than its lock, although each rounds: where a bid fills at its own limit in parts, a part's fee
may be the floor instead of the ceiling, so that all parts together pay the fee on the whole, rounded up once. Rates
in force at the fill apply, but a bid never pays more than the rate that it locked at.
"""

from __future__ import annotations

from engine.exchange.book import Order
from engine.exchange.codec import JournalRecord
from engine.exchange.events import Side, Trade
from engine.exchange.state import AVAILABLE, LOCKED, EngineState, Market
from engine.money import fee_units

BUY, SELL = Side.BUY, Side.SELL


def lock_units(market: Market, side: int, price_ticks: int, quantity_lots: int, rate_ppm: int) -> int:
    """What a resting or new order locks: quote units for a bid (notional and fee), base units for an ask."""
    if side == SELL:
        return quantity_lots * market.base_units_per_lot
    notional = price_ticks * quantity_lots * market.quote_units_per_tick_lot
    return notional + fee_units(notional, rate_ppm)


def lock_of(market: Market, order: Order) -> int:
    """What an order has locked."""
    return lock_units(market, order.side, order.reserve or order.price, order.quantity, order.rate_ppm)


def release(state: EngineState, market: Market, order: Order, units: int) -> None:
    """Give so much of an order's lock back."""
    row = state.row(order.account, market.quote if order.side == BUY else market.base)
    row[LOCKED] -= units
    row[AVAILABLE] += units


def fill(
    state: EngineState,
    record: JournalRecord,
    market: Market,
    taker: Order,
    maker: Order,
    quantity: int,
    fill_index: int,
) -> Trade:
    """Settle one fill at the maker's price and report it."""
    price = maker.price
    base_units = quantity * market.base_units_per_lot
    quote_units = price * quantity * market.quote_units_per_tick_lot
    taker_rate, maker_rate = state.rates(taker.account)[1], state.rates(maker.account)[0]
    if taker.side == BUY:
        taker_fee = _settle_buyer(state, market, taker, quantity, base_units, quote_units, taker_rate)
        maker_fee = _settle_seller(state, market, maker, base_units, quote_units, maker_rate)
    else:
        maker_rate = min(maker_rate, maker.rate_ppm)
        maker_fee = _settle_buyer(state, market, maker, quantity, base_units, quote_units, maker_rate)
        taker_fee = _settle_seller(state, market, taker, base_units, quote_units, taker_rate)
    state.fees[market.quote] += taker_fee + maker_fee
    state.last_prices[market.market] = price
    taker.quantity -= quantity
    maker.quantity -= quantity
    trade_id = state.next_trade_id
    state.next_trade_id = trade_id + 1
    return Trade(
        trade_id=trade_id,
        engine_seq=record.seq,
        fill_index=fill_index,
        close_day=state.open_day,
        sequenced_us=record.ts_us,
        effective_us=record.effective_us,
        market=market.market,
        price_ticks=price,
        quantity_lots=quantity,
        base_units=base_units,
        quote_units=quote_units,
        taker_side=BUY if taker.side == BUY else SELL,
        maker_account=maker.account,
        taker_account=taker.account,
        maker_order_id=maker.order_id,
        taker_order_id=taker.order_id,
        maker_fee_units=maker_fee,
        taker_fee_units=taker_fee,
        maker_rate_ppm=maker_rate,
        taker_rate_ppm=taker_rate,
    )


def _settle_buyer(
    state: EngineState, market: Market, order: Order, quantity: int, base_units: int, quote_units: int, rate_ppm: int
) -> int:
    """Pay notional and fee from the order's lock, release the improvement, receive the base; the fee is returned."""
    locked_at = order.reserve or order.price
    before = lock_units(market, BUY, locked_at, order.quantity, order.rate_ppm)
    after = lock_units(market, BUY, locked_at, order.quantity - quantity, order.rate_ppm)
    freed = before - after
    fee = min(fee_units(quote_units, rate_ppm), freed - quote_units)
    row = state.row(order.account, market.quote)
    row[LOCKED] -= freed
    row[AVAILABLE] += freed - quote_units - fee
    state.row(order.account, market.base)[AVAILABLE] += base_units
    return fee


def _settle_seller(
    state: EngineState, market: Market, order: Order, base_units: int, quote_units: int, rate_ppm: int
) -> int:
    """Give the base from the order's lock, receive the notional less the fee; the fee is returned."""
    fee = fee_units(quote_units, rate_ppm)
    state.row(order.account, market.base)[LOCKED] -= base_units
    state.row(order.account, market.quote)[AVAILABLE] += quote_units - fee
    return fee
