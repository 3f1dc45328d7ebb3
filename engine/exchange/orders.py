"""Orders: funds locked, matched at the maker's price, settled fill by fill, the rest released.

What belongs here: the life of an order and what each fill moves.
What does not: the queue itself (see `book`).

An order's lock is always exactly `lock_units` of what is left of it: for a bid the notional at its limit plus the fee
on that, rounded up, at the taker rate when it was accepted; for an ask the base. A fill releases the difference of two
such locks and pays from it, so nothing is ever left locked and a bid's fills never cost more than its lock, although
each rounds: where a bid fills at its own limit in parts, a part's fee may be the floor instead of the ceiling, so that
all parts together pay the fee on the whole, rounded up once. Rates in force at the fill apply, but a bid never pays
more than the rate that it locked at.
"""

from __future__ import annotations

from engine.exchange import commands as cmd
from engine.exchange.book import Book, Order
from engine.exchange.codec import JournalRecord
from engine.exchange.events import Event, OrderAccepted, OrderCancelled, Rejected, RejectReason, Side, Trade
from engine.exchange.state import AVAILABLE, LOCKED, EngineState, Market
from engine.money import MAX_UNITS, fee_units

BUY, SELL = Side.BUY, Side.SELL


def lock_units(market: Market, side: int, price_ticks: int, quantity_lots: int, rate_ppm: int) -> int:
    """What a resting or new order locks: quote units for a bid (notional and fee), base units for an ask."""
    if side == SELL:
        return quantity_lots * market.base_units_per_lot
    notional = price_ticks * quantity_lots * market.quote_units_per_tick_lot
    return notional + fee_units(notional, rate_ppm)


def new_order(state: EngineState, record: JournalRecord, command: cmd.NewOrder) -> list[Event]:
    """Check, lock, match, settle and rest or release an order."""
    rate = state.taker_rate_ppm
    reason = _refusal(state, command)
    if reason is not None:
        return [Rejected(record.seq, reason, command.account)]
    market = state.registry.markets[command.market]
    side = command.side
    row = state.row(command.account, market.quote if side == BUY else market.base)
    lock = lock_units(market, side, command.price_ticks, command.quantity_lots, rate)
    row[AVAILABLE] -= lock
    row[LOCKED] += lock
    if command.reference:
        state.order_references[0][command.account, command.reference] = record.seq
    order = Order(record.seq, command.account, side, command.price_ticks, command.quantity_lots, rate)
    events: list[Event] = [OrderAccepted(record.seq, record.seq, command.account, command.market)]
    book = state.books[command.market]
    crossed_self = _match(state, record, market, book, order, events)
    if order.quantity:
        if command.tif == cmd.TimeInForce.IOC or crossed_self:
            _release(state, market, order)
            events.append(OrderCancelled(record.seq, record.seq, command.account, command.market, order.quantity))
        else:
            book.rest(order)
            state.order_market[order.order_id] = command.market
    return events


def cancel_order(state: EngineState, record: JournalRecord, command: cmd.CancelOrder) -> list[Event]:
    """Take an account's own resting order out of the book and release its lock."""
    if state.in_genesis:
        return [Rejected(record.seq, RejectReason.INVALID_CUT_OFF, command.account)]
    if command.account not in state.registry.accounts:
        return [Rejected(record.seq, RejectReason.UNKNOWN_ACCOUNT, command.account)]
    number = state.order_market.get(command.order_id)
    if number is None:
        return [Rejected(record.seq, RejectReason.UNKNOWN_ORDER, command.account)]
    book = state.books[number]
    order = book.orders[command.order_id]
    if order.account != command.account:
        return [Rejected(record.seq, RejectReason.NOT_THE_OWNER, command.account)]
    book.remove(order)
    del state.order_market[command.order_id]
    _release(state, state.registry.markets[number], order)
    return [OrderCancelled(record.seq, order.order_id, order.account, number, order.quantity)]


def _refusal(state: EngineState, command: cmd.NewOrder) -> RejectReason | None:
    """Why an order may not be accepted; None if it may."""
    if state.in_genesis:
        return RejectReason.INVALID_CUT_OFF
    if command.account not in state.registry.accounts:
        return RejectReason.UNKNOWN_ACCOUNT
    market = state.registry.markets.get(command.market)
    if market is None:
        return RejectReason.UNKNOWN_MARKET
    if command.price_ticks <= 0:
        return RejectReason.INVALID_PRICE
    if command.quantity_lots <= 0:
        return RejectReason.INVALID_QUANTITY
    if command.reference:
        key = (command.account, command.reference)
        if key in state.order_references[0] or key in state.order_references[1]:
            return RejectReason.DUPLICATE_REFERENCE
    side, price, quantity = command.side, command.price_ticks, command.quantity_lots
    lock = lock_units(market, side, price, quantity, state.taker_rate_ppm)
    if lock > MAX_UNITS:
        return RejectReason.TOO_LARGE
    row = state.balances.get((command.account, market.quote if side == BUY else market.base))
    return RejectReason.INSUFFICIENT_FUNDS if row is None or row[AVAILABLE] < lock else None


def _release(state: EngineState, market: Market, order: Order) -> None:
    """Give back all that is still locked for an order."""
    row = state.row(order.account, market.quote if order.side == BUY else market.base)
    lock = lock_units(market, order.side, order.price, order.quantity, order.rate_ppm)
    row[LOCKED] -= lock
    row[AVAILABLE] += lock


def _match(
    state: EngineState, record: JournalRecord, market: Market, book: Book, taker: Order, events: list[Event]
) -> bool:
    """Fill a taker while a maker's price allows; true if it met an order of its own account and stopped."""
    against = SELL if taker.side == BUY else BUY
    fill_index = 0
    while taker.quantity:
        maker = book.best(against)
        if maker is None or (maker.price > taker.price if taker.side == BUY else maker.price < taker.price):
            return False
        if maker.account == taker.account:
            return True
        quantity = min(maker.quantity, taker.quantity)
        events.append(_fill(state, record, market, taker, maker, quantity, fill_index))
        fill_index += 1
        if not maker.quantity:
            book.remove(maker)
            del state.order_market[maker.order_id]
    return False


def _fill(
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
    taker_rate, maker_rate = state.taker_rate_ppm, state.maker_rate_ppm
    if taker.side == BUY:
        taker_fee = _settle_buyer(state, market, taker, quantity, base_units, quote_units, taker_rate)
        maker_fee = _settle_seller(state, market, maker, base_units, quote_units, maker_rate)
    else:
        maker_rate = min(maker_rate, maker.rate_ppm)
        maker_fee = _settle_buyer(state, market, maker, quantity, base_units, quote_units, maker_rate)
        taker_fee = _settle_seller(state, market, taker, base_units, quote_units, taker_rate)
    state.fees[market.quote] += taker_fee + maker_fee
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
    before = lock_units(market, BUY, order.price, order.quantity, order.rate_ppm)
    after = lock_units(market, BUY, order.price, order.quantity - quantity, order.rate_ppm)
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
