"""Matching alone over a stream of plain messages, on the book that trades online.

What belongs here: the loop that `conformance` runs in CPython.
What does not: accounts, money, order types (see `orders`), and the same thing compiled (see `kernels.stream`).

Most of a message's time is memory and calls. So orders that leave are used again, newest first, and resting and the
look at the best price are written out instead of calling the book: 1.6 million messages a second became 2.3 on one
machine. That is also why the one loop is longer than functions are elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from engine.exchange.book import BUY, Book, Level, Order

NEW, CANCEL, MODIFY = 0, 1, 2
Message = tuple[int, int, int, int, int, int]
"""Kind, side, immediate-or-cancel, quantity, order id, price."""


class TakenIdError(Exception):
    """A new order carries the id of one that rests."""

    def __init__(self, seq: int) -> None:
        super().__init__(seq)
        self.seq = seq


def match_stream(messages: Iterable[Message]) -> list[tuple[int, ...]]:  # noqa: C901 - see above
    """The reports of a stream matched into an empty book.

    Raises:
        TakenIdError: a new order's id rests.
    """
    book = Book()
    orders, levels, remove = book.orders, book.levels, book.remove
    find = orders.get
    pool: list[Order] = []
    recycle = pool.append
    reports: list[tuple[int, ...]] = []
    report = reports.append
    for seq, (kind, side, ioc, quantity, order_id, price) in enumerate(messages):
        order = find(order_id)
        if kind != NEW:
            if order is None:
                report((kind + 3, seq, order_id))
                continue
            side = order.side
            remove(order)
            recycle(order)
            if kind == CANCEL:
                report((2, seq, side, order_id, order.price))
                continue
            ioc = 0
        elif order is not None:
            raise TakenIdError(seq)
        else:
            report((0, seq, side, order_id, price, quantity))
        left = quantity
        against = 1 - side
        heap = book.heaps[against]
        if side == BUY:
            key, reach = -price, price
        else:
            key, reach = price, -price
        while heap and (best := heap[0]) <= reach:
            level = levels[against].get(best)
            if level is None:
                book.queued[against].discard(heappop(heap))
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
        if left and ioc:
            report((2, seq, side, order_id, price))
        elif left:
            if pool:
                order = pool.pop()
                order.order_id, order.side, order.price, order.quantity = order_id, side, price, left
                order.previous = order.next = None
            else:
                order = Order(order_id, 0, side, price, left, 0)
            orders[order_id] = order
            level = levels[side].get(key)
            if level is None:
                levels[side][key] = Level(order)
                if key not in book.queued[side]:
                    book.queued[side].add(key)
                    heappush(book.heaps[side], key)
            else:
                tail = level.tail
                tail.next = order
                order.previous = tail
                level.tail = order
        if kind == MODIFY:
            report((3, seq, side, order_id, price, quantity))
    return reports
