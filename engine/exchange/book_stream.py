"""Matching alone over a stream of plain messages, on the book that trades online.

What belongs here: the loop that `conformance` runs in CPython.
What does not: accounts, money, order types (see `orders`), and the same thing compiled (see `kernels.stream`).

Most of a message's time is calls and memory. So orders and levels that leave are used again, newest first (where
prices swing, nearly every order makes a level), and what `Book` does is written out here on the book's own levels and
heaps: with calls and new orders it was three quarters as fast. That is also why the one loop is longer than functions
are elsewhere; the tests hold it against a brute-force book and published hashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from engine.exchange.book import Book, Level, Order

NEW, CANCEL, MODIFY = 0, 1, 2
Message = tuple[int, int, int, int, int, int]
"""Kind, side, immediate-or-cancel, quantity, order id, price."""


class TakenIdError(Exception):
    """A new order carries the id of one that rests."""

    def __init__(self, seq: int) -> None:
        super().__init__(seq)
        self.seq = seq


def match_stream(  # noqa: C901 - see above
    messages: Iterable[Message], *, ids_come_back: bool = True
) -> list[tuple[int, ...]]:
    """The reports of a stream matched into an empty book.

    Args:
        messages: the stream.
        ids_come_back: whether an id may be that of two new orders, so that each has to be looked up.

    Raises:
        TakenIdError: a new order's id rests.
    """
    book = Book()
    orders = book.orders
    bids, asks = book.levels
    bid_heap, ask_heap = book.heaps
    find, bids_at, asks_at = orders.pop, bids.get, asks.get
    pool: list[Order] = []
    recycle, reuse = pool.append, pool.pop
    empties: list[Level] = []
    empty, fresh = empties.append, empties.pop
    take_bids, take_asks = bids.pop, asks.pop
    reports: list[tuple[int, ...]] = []
    report = reports.append
    seq = -1
    for kind, side, ioc, left, order_id, price in messages:
        seq += 1
        if not kind:
            if ids_come_back and order_id in orders:
                raise TakenIdError(seq)
            report((0, seq, side, order_id, price, left))
        else:
            # MODIFY is a cancel first.
            order = find(order_id, None)
            if order is None:
                report((kind + 3, seq, order_id))
                continue
            before, after = order.previous, order.next
            if before is None:
                order.level.head = after
            else:
                before.next = after
                order.previous = None
            if after is None:
                order.level.tail = before
            else:
                after.previous = before
                order.next = None
            recycle(order)
            if kind == CANCEL:
                report((2, seq, order.side, order_id, order.price))
                continue
            side, ioc, quantity = order.side, 0, left
        # The heap's first key is the best price or better, so most orders that rest stop at its first look.
        if side:
            while bid_heap and bid_heap[0] <= -price:
                level = bids[bid_heap[0]]
                maker = level.head
                while maker is not None:
                    standing = maker.quantity
                    if standing > left:
                        report((1, seq, maker.price, left, maker.order_id, order_id))
                        maker.quantity = standing - left
                        left = 0
                        break
                    report((1, seq, maker.price, standing, maker.order_id, order_id))
                    del orders[maker.order_id]
                    recycle(maker)
                    left -= standing
                    after = level.head = maker.next
                    if after is None:
                        level.tail = None
                    else:
                        after.previous = maker.next = None
                    if not left:
                        break
                    maker = after
                if not left:
                    break
                empty(take_bids(heappop(bid_heap)))
        else:
            while ask_heap and ask_heap[0] <= price:
                level = asks[ask_heap[0]]
                maker = level.head
                while maker is not None:
                    standing = maker.quantity
                    if standing > left:
                        report((1, seq, maker.price, left, maker.order_id, order_id))
                        maker.quantity = standing - left
                        left = 0
                        break
                    report((1, seq, maker.price, standing, maker.order_id, order_id))
                    del orders[maker.order_id]
                    recycle(maker)
                    left -= standing
                    after = level.head = maker.next
                    if after is None:
                        level.tail = None
                    else:
                        after.previous = maker.next = None
                    if not left:
                        break
                    maker = after
                if not left:
                    break
                empty(take_asks(heappop(ask_heap)))
        if left:
            if ioc:
                report((2, seq, side, order_id, price))
                continue
            if pool:
                order = reuse()
                order.order_id = order_id
                order.side = side
                order.price = price
                order.quantity = left
            else:
                order = Order(order_id, 0, side, price, left, 0)
            orders[order_id] = order
            if side:
                place = asks_at(price)
                if place is None:
                    if empties:
                        place = fresh()
                        place.head = place.tail = order
                    else:
                        place = Level(order)
                    order.level = asks[price] = place
                    heappush(ask_heap, price)
                    if kind:
                        report((3, seq, side, order_id, price, quantity))
                    continue
            else:
                place = bids_at(-price)
                if place is None:
                    if empties:
                        place = fresh()
                        place.head = place.tail = order
                    else:
                        place = Level(order)
                    order.level = bids[-price] = place
                    heappush(bid_heap, -price)
                    if kind:
                        report((3, seq, side, order_id, price, quantity))
                    continue
            order.level = place
            tail = place.tail
            place.tail = order
            if tail is None:
                place.head = order
            else:
                tail.next = order
                order.previous = tail
        if kind:
            report((3, seq, side, order_id, price, quantity))
    return reports
