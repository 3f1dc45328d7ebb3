"""A locked order against the book: filled at the makers' prices while they allow, and what each fill moves.

What belongs here: which orders meet, and the balances, fees and trade of each fill.
What does not: locks of orders that rest (see `locks`), what becomes of the rest of a taker (see `orders`), the queue
itself (see `book`).

Both sides are settled at the maker's price, fees taken, the improvement released. A fill releases the difference of an
order's locks before and after it and pays from that, so nothing is ever left locked and a bid's fills never cost more
than its lock, although each rounds: where a bid fills at its own limit in parts, a part's fee may be the floor instead
of the ceiling, so that all parts together pay the fee on the whole, rounded up once. Rates in force at the fill apply,
but a bid never pays more than the rate that it locked at.

How long a command takes is how many fills it makes, so a fill is written out here: what the taker has in common in all
of them is looked up once, and neither the book, the locks nor the fees are asked by a call. Hence one loop longer than
functions are elsewhere; the kernel of a replay, which shares no line with it, is held against it by the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop

from engine.exchange.book import BUY, Book, Order
from engine.exchange.codec import JournalRecord
from engine.exchange.events import Event, Side, Trade
from engine.exchange.locks import rows_of
from engine.exchange.state import AVAILABLE, LOCKED, EngineState, Market
from engine.money import PPM

_NO_RATES = (0, 0)
# A trade from its fields in their order: three times as quick as by its own constructor, which only counts them too.
_trade: Callable[[type[Trade], tuple[int, ...]], Trade] = tuple.__new__


def match(
    state: EngineState, record: JournalRecord, market: Market, book: Book, taker: Order, events: list[Event]
) -> bool:
    """Fill a taker while a maker's price allows; true if it met an order of its own account and stopped."""
    buying = taker.side == BUY
    # Keys are the makers' prices, negated for bids: what the taker reaches is at or below its own.
    levels, heap = book.levels[buying], book.heaps[buying]
    reach = taker.price if buying else -taker.price
    if not heap or heap[0] > reach:
        return False
    account, taker_id, left = taker.account, taker.order_id, taker.quantity
    tiers, account_tiers = state.tiers, state.account_tiers
    taker_rate = tiers.get(account_tiers.get(account, 0), _NO_RATES)[1]
    number = market.market
    base_per_lot, quote_per_tick_lot = market.base_units_per_lot, market.quote_units_per_tick_lot
    pays, gets = rows_of(state, market, taker)
    side = Side.BUY if buying else Side.SELL
    if buying:
        # What one lot of the taker locks before the fee, and what all that is left of it has locked.
        lot = (taker.reserve or taker.price) * quote_per_tick_lot
        lock_rate = taker.rate_ppm
        held = lot * left - (-lot * left * lock_rate) // PPM
    trade_id, fees, fill_index, price = state.next_trade_id, 0, 0, 0
    crossed_self = False
    seq, ts_us, effective_us, _, _ = record
    day = state.open_day
    while left and heap and (key := heap[0]) <= reach:
        level = levels[key]
        maker = level.head
        if maker is None:
            del levels[heappop(heap)]
            continue
        maker_account = maker.account
        if maker_account == account:
            crossed_self = True
            break
        price = key if buying else -key
        standing, maker_id = maker.quantity, maker.order_id
        quantity = left if left < standing else standing
        left -= quantity
        standing -= quantity
        base_units = quantity * base_per_lot
        quote_units = price * quantity * quote_per_tick_lot
        maker_rate = tiers.get(account_tiers.get(maker_account, 0), _NO_RATES)[0]
        maker_pays, maker_gets = maker.pays, maker.gets
        if maker_pays is None or maker_gets is None:
            maker_pays, maker_gets = rows_of(state, market, maker)
        if buying:
            after = lot * left - (-lot * left * lock_rate) // PPM
            freed, held = held - after, after
            taker_fee = min(-(-quote_units * taker_rate // PPM), freed - quote_units)
            pays[LOCKED] -= freed
            pays[AVAILABLE] += freed - quote_units - taker_fee
            gets[AVAILABLE] += base_units
            maker_fee = -(-quote_units * maker_rate // PPM)
            maker_pays[LOCKED] -= base_units
            maker_gets[AVAILABLE] += quote_units - maker_fee
        else:
            maker_lot, lock_rate = (maker.reserve or price) * quote_per_tick_lot, maker.rate_ppm
            if maker_rate > lock_rate:
                maker_rate = lock_rate
            after = maker_lot * standing
            before = after + maker_lot * quantity
            freed = before - after - (-before * lock_rate) // PPM + (-after * lock_rate) // PPM
            maker_fee = min(-(-quote_units * maker_rate // PPM), freed - quote_units)
            maker_pays[LOCKED] -= freed
            maker_pays[AVAILABLE] += freed - quote_units - maker_fee
            maker_gets[AVAILABLE] += base_units
            taker_fee = -(-quote_units * taker_rate // PPM)
            pays[LOCKED] -= base_units
            gets[AVAILABLE] += quote_units - taker_fee
        fees += taker_fee + maker_fee
        maker.quantity = standing
        # fmt: off
        events.append(_trade(Trade, (
            trade_id, seq, fill_index, day, ts_us, effective_us, number, price, quantity, base_units, quote_units,
            side, maker_account, account, maker_id, taker_id, maker_fee, taker_fee, maker_rate, taker_rate,
        )))
        # fmt: on
        trade_id += 1
        fill_index += 1
        if not standing:
            behind = level.head = maker.next
            if behind is None:
                level.tail = None
            else:
                behind.previous = maker.next = None
            del book.orders[maker_id], state.order_market[maker_id]
            state.account_orders[maker_account].discard(maker_id)
    if fill_index:
        taker.quantity = left
        state.fees[market.quote] += fees
        state.last_prices[number] = price
        state.next_trade_id = trade_id
    return crossed_self
