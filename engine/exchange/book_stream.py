"""Matching alone over a stream of plain messages, on the book that trades online.

What belongs here: the loop that `conformance` runs in CPython.
What does not: accounts, money, order types (see `orders`), and the same thing compiled (see `kernels.stream`).

Most of a message's time is calls and memory. So orders that leave are used again, newest first, and what `Book` does
is written out here on the book's own levels, heaps and queues: with calls and new orders it was 1.6 million messages a
second where this is 2.1. That is also why the one loop is longer than functions are elsewhere; the tests hold it
against a brute-force book and published hashes.
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
    orders, remove = book.orders, book.remove
    bids, asks = book.levels
    bid_heap, ask_heap = book.heaps
    bid_queued, ask_queued = book.queued
    find = orders.pop
    pool: list[Order] = []
    recycle, reuse = pool.append, pool.pop
    reports: list[tuple[int, ...]] = []
    report = reports.append
    seq = -1
    for kind, side, ioc, quantity, order_id, price in messages:
        seq += 1
        # MODIFY is a cancel first.
        if kind:
            order = find(order_id, None)
            if order is None:
                report((kind + 3, seq, order_id))
                continue
            side = order.side
            before, after = order.previous, order.next
            if before is None:
                if after is None:
                    if side:
                        del asks[order.price]
                    else:
                        del bids[-order.price]
                else:
                    after.previous = None
                    if side:
                        asks[order.price].head = after
                    else:
                        bids[-order.price].head = after
            elif after is None:
                before.next = None
                if side:
                    asks[order.price].tail = before
                else:
                    bids[-order.price].tail = before
            else:
                before.next = after
                after.previous = before
            recycle(order)
            if kind == CANCEL:
                report((2, seq, side, order_id, order.price))
                continue
            ioc = 0
        elif ids_come_back and order_id in orders:
            raise TakenIdError(seq)
        else:
            report((0, seq, side, order_id, price, quantity))
        left = quantity
        # The heap's first key is the best price or better, so most orders that rest stop at its first look.
        if side:
            reach = -price
            while bid_heap and (best := bid_heap[0]) <= reach:
                level = bids.get(best)
                if level is None:
                    bid_queued.discard(heappop(bid_heap))
                    continue
                maker = level.head
                standing = maker.quantity
                if standing > left:
                    report((1, seq, maker.price, left, maker.order_id, order_id))
                    maker.quantity = standing - left
                    left = 0
                    break
                report((1, seq, maker.price, standing, maker.order_id, order_id))
                remove(maker)
                recycle(maker)
                left -= standing
                if not left:
                    break
        else:
            while ask_heap and (best := ask_heap[0]) <= price:
                level = asks.get(best)
                if level is None:
                    ask_queued.discard(heappop(ask_heap))
                    continue
                maker = level.head
                standing = maker.quantity
                if standing > left:
                    report((1, seq, best, left, maker.order_id, order_id))
                    maker.quantity = standing - left
                    left = 0
                    break
                report((1, seq, best, standing, maker.order_id, order_id))
                remove(maker)
                recycle(maker)
                left -= standing
                if not left:
                    break
        if left and ioc:
            report((2, seq, side, order_id, price))
        elif left:
            if pool:
                order = reuse()
                order.order_id = order_id
                order.side = side
                order.price = price
                order.quantity = left
                order.next = order.previous = None
            else:
                order = Order(order_id, 0, side, price, left, 0)
            orders[order_id] = order
            if side:
                level = asks.get(price)
                if level is None:
                    asks[price] = Level(order)
                    if price not in ask_queued:
                        ask_queued.add(price)
                        heappush(ask_heap, price)
                    if kind == MODIFY:
                        report((3, seq, side, order_id, price, quantity))
                    continue
            else:
                key = -price
                level = bids.get(key)
                if level is None:
                    bids[key] = Level(order)
                    if key not in bid_queued:
                        bid_queued.add(key)
                        heappush(bid_heap, key)
                    if kind == MODIFY:
                        report((3, seq, side, order_id, price, quantity))
                    continue
            tail = level.tail
            tail.next = order
            order.previous = tail
            level.tail = order
        if kind == MODIFY:
            report((3, seq, side, order_id, price, quantity))
    return reports
