"""Orders: checked, funds locked, matched at the maker's price, rested or released; cancelled, reduced, amended.

What belongs here: the life of an order.
What does not: the queue itself (see `book`), limits and bands (see `risk`), locks (see `locks`), fills
(see `matching`).
"""

from __future__ import annotations

from engine.exchange import commands as cmd
from engine.exchange.book import BUY, Book, Order
from engine.exchange.codec import JournalRecord
from engine.exchange.events import (
    Event,
    OrderAccepted,
    OrderAmended,
    OrderCancelled,
    OrderReduced,
    Rejected,
    RejectReason,
)
from engine.exchange.locks import lock_of, lock_units, release, rows_of
from engine.exchange.matching import match
from engine.exchange.risk import limit_price
from engine.exchange.state import AVAILABLE, LOCKED, EngineState, Market, UsedOrderKey
from engine.money import MAX_UNITS

# Named once: a member of an enumeration takes as long to name as a call.
_GTC, _FOK, _POST_ONLY = cmd.TimeInForce.GTC, cmd.TimeInForce.FOK, cmd.TimeInForce.POST_ONLY
_NEVER_RESTS = (cmd.TimeInForce.IOC, _FOK, cmd.TimeInForce.MARKET)


def new_order(state: EngineState, record: JournalRecord, command: cmd.NewOrder) -> list[Event]:
    """Check, lock, match, settle and rest or release an order."""
    account, side, tif, reference = command.account, command.side, command.tif, command.reference
    key = _key_of(record, command) if reference else None
    reason = _stranger(state, command, key)
    if reason is not None:
        return [Rejected(record.seq, reason, account)]
    market = state.registry.markets[command.market]
    quantity = command.quantity_lots
    limit = limit_price(state, market, side, tif, command.price_ticks, quantity, record.ts_us)
    if isinstance(limit, RejectReason):
        return [Rejected(record.seq, limit, account)]
    reserve = command.reserve_price_ticks
    if side == BUY and reserve and reserve < limit:
        return [Rejected(record.seq, RejectReason.INVALID_PRICE, account)]
    rate = state.rates(account)[1]
    lock = lock_units(market, side, reserve or limit, quantity, rate)
    book = state.books[command.market]
    given, taken = (market.quote, market.base) if side == BUY else (market.base, market.quote)
    pays = state.balances.get((account, given))
    reason = _uncovered(pays, lock, 0) or _unmet(book, command, limit)
    if reason is not None or pays is None:
        return [Rejected(record.seq, reason or RejectReason.INSUFFICIENT_FUNDS, account)]
    pays[AVAILABLE] -= lock
    pays[LOCKED] += lock
    if key is not None:
        state.order_references[0][account, reference] = key
    gets = state.row(account, taken)
    order = Order(record.seq, account, side, limit, quantity, rate, tif == _POST_ONLY, reserve, pays, gets)
    events: list[Event] = [OrderAccepted(record.seq, record.seq, account, command.market)]
    _execute(state, record, market, book, order, tif, events)
    return events


def cancel_order(state: EngineState, record: JournalRecord, command: cmd.CancelOrder) -> list[Event]:
    """Take an account's own resting order out of the book and release its lock."""
    order = _own(state, command.account, command.order_id)
    if not isinstance(order, Order):
        return [Rejected(record.seq, order, command.account)]
    return [_cancel(state, record, order)]


def cancel_all(state: EngineState, record: JournalRecord, command: cmd.CancelAll) -> list[Event]:
    """Cancel an account's resting orders, oldest first; none is no error."""
    reason = None
    if state.in_genesis:
        reason = RejectReason.INVALID_CUT_OFF
    elif command.account not in state.registry.accounts:
        reason = RejectReason.UNKNOWN_ACCOUNT
    elif command.market and command.market not in state.registry.markets:
        reason = RejectReason.UNKNOWN_MARKET
    if reason is not None:
        return [Rejected(record.seq, reason, command.account)]
    events: list[Event] = []
    for order_id in sorted(state.account_orders.get(command.account, ())):
        number = state.order_market[order_id]
        if command.market in (0, number):
            events.append(_cancel(state, record, state.books[number].orders[order_id]))
    return events


def reduce_order(state: EngineState, record: JournalRecord, command: cmd.ReduceOrder) -> list[Event]:
    """Take lots off an order where it stands; all of them, or more, cancel it."""
    order = _own(state, command.account, command.order_id)
    if isinstance(order, Order) and command.quantity_lots <= 0:
        order = RejectReason.INVALID_QUANTITY
    if not isinstance(order, Order):
        return [Rejected(record.seq, order, command.account)]
    if command.quantity_lots >= order.quantity:
        return [_cancel(state, record, order)]
    number = state.order_market[order.order_id]
    market = state.registry.markets[number]
    before = lock_of(market, order)
    order.quantity -= command.quantity_lots
    release(state, market, order, before - lock_of(market, order))
    return [OrderReduced(record.seq, order.order_id, order.account, number, command.quantity_lots, order.quantity)]


def amend_order(state: EngineState, record: JournalRecord, command: cmd.AmendOrder) -> list[Event]:
    """Give an order another limit and rest behind all others, as if it came new; refused, it stays as it is."""
    account = command.account
    order = _own(state, account, command.order_id)
    if isinstance(order, Order) and not state.registry.accounts[account].may_trade:
        order = RejectReason.ACCOUNT_MAY_NOT_TRADE
    if not isinstance(order, Order):
        return [Rejected(record.seq, order, account)]
    number = state.order_market[order.order_id]
    market, book = state.registry.markets[number], state.books[number]
    price, quantity = command.price_ticks, command.quantity_lots
    limit = limit_price(state, market, order.side, _GTC, price, quantity, record.ts_us)
    if isinstance(limit, RejectReason):
        return [Rejected(record.seq, limit, account)]
    if order.side == BUY and order.reserve and order.reserve < limit:
        return [Rejected(record.seq, RejectReason.PRICE_ABOVE_RESERVE, account)]
    rate = state.rates(account)[1]
    lock, freed = lock_units(market, order.side, order.reserve or price, quantity, rate), lock_of(market, order)
    pays, gets = rows_of(state, market, order)
    reason = _uncovered(pays, lock, freed)
    if reason is None and order.post_only and book.crosses(order.side, price):
        reason = RejectReason.WOULD_TAKE
    if reason is not None:
        return [Rejected(record.seq, reason, account)]
    _leave(state, book, order)
    pays[AVAILABLE] += freed - lock
    pays[LOCKED] += lock - freed
    again = Order(
        order.order_id, account, order.side, price, quantity, rate, order.post_only, order.reserve, pays, gets
    )
    events: list[Event] = [OrderAmended(record.seq, order.order_id, account, number, price, quantity)]
    _execute(state, record, market, book, again, _GTC, events)
    return events


def _key_of(record: JournalRecord, command: cmd.NewOrder) -> UsedOrderKey:
    """What the client reference of an order stands for."""
    return UsedOrderKey(
        record.seq,
        command.market,
        command.side,
        command.tif,
        command.price_ticks,
        command.quantity_lots,
        command.reserve_price_ticks,
    )


def _stranger(state: EngineState, command: cmd.NewOrder, key: UsedOrderKey | None) -> RejectReason | None:
    """Whether the day, the account, the reference or the market keeps an order out."""
    if state.in_genesis:
        return RejectReason.INVALID_CUT_OFF
    account = state.registry.accounts.get(command.account)
    if account is None:
        return RejectReason.UNKNOWN_ACCOUNT
    if key is not None:
        known = state.known_order(command.account, command.reference)
        if known is not None:
            return key.refusal(known)
    if command.market not in state.registry.markets:
        return RejectReason.UNKNOWN_MARKET
    return None if account.may_trade else RejectReason.ACCOUNT_MAY_NOT_TRADE


def _uncovered(row: list[int] | None, lock: int, freed: int) -> RejectReason | None:
    """Whether a lock is too large, or more than a balance has available with what another lock frees."""
    if lock > MAX_UNITS:
        return RejectReason.TOO_LARGE
    return RejectReason.INSUFFICIENT_FUNDS if row is None or row[AVAILABLE] + freed < lock else None


def _unmet(book: Book, command: cmd.NewOrder, limit: int) -> RejectReason | None:
    """Whether the book does not allow what the order insists on; decided before anything moves."""
    if command.tif == _POST_ONLY and book.crosses(command.side, limit):
        return RejectReason.WOULD_TAKE
    if command.tif == _FOK and not book.fills_whole(command.side, limit, command.quantity_lots, command.account):
        return RejectReason.NOT_FILLABLE
    return None


def _own(state: EngineState, account: int, order_id: int) -> Order | RejectReason:
    """A resting order of an account."""
    if state.in_genesis:
        return RejectReason.INVALID_CUT_OFF
    if account not in state.registry.accounts:
        return RejectReason.UNKNOWN_ACCOUNT
    number = state.order_market.get(order_id)
    if number is None:
        return RejectReason.UNKNOWN_ORDER
    order = state.books[number].orders[order_id]
    return order if order.account == account else RejectReason.NOT_THE_OWNER


def _leave(state: EngineState, book: Book, order: Order) -> None:
    """Take an order out of the book and every index."""
    book.remove(order)
    del state.order_market[order.order_id]
    state.account_orders[order.account].discard(order.order_id)


def _cancel(state: EngineState, record: JournalRecord, order: Order) -> OrderCancelled:
    """Take an order out of the book and release its lock."""
    number = state.order_market[order.order_id]
    _leave(state, state.books[number], order)
    market = state.registry.markets[number]
    release(state, market, order, lock_of(market, order))
    return OrderCancelled(record.seq, order.order_id, order.account, number, order.quantity)


def _execute(
    state: EngineState, record: JournalRecord, market: Market, book: Book, order: Order, tif: int, events: list[Event]
) -> None:
    """Match a locked order, then rest what is left of it or release that."""
    crossed_self = match(state, record, market, book, order, events)
    if not order.quantity:
        return
    account, number = order.account, market.market
    if crossed_self or tif in _NEVER_RESTS:
        release(state, market, order, lock_of(market, order))
        events.append(OrderCancelled(record.seq, order.order_id, account, number, order.quantity))
        return
    book.rest(order)
    state.order_market[order.order_id] = number
    mine = state.account_orders.get(account)
    if mine is None:
        state.account_orders[account] = {order.order_id}
    else:
        mine.add(order.order_id)
