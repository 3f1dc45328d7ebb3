"""One market's order book: price levels, first in first out, best price first.

What belongs here: resting, removing and finding orders by price-time priority.
What does not: money, accounts' rights, what a fill costs (see `orders`).

A level is a linked list through its orders (head, tail), so the first order, a cancel and an append are all O(1). Each
side has a heap of the prices of its levels; a level that ran empty stays, since most come back, and goes with its price
when that surfaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

BUY, SELL = 0, 1


class Order:
    """A resting order. `quantity` is what is left, in lots; `rate_ppm` the fee rate that its lock was taken at.

    `reserve` is the price that a bid locks at where that is not its own, else 0; `level` is where it stands, or stood.
    `pays` and `gets` are the account's balances of what it gives and takes, for whoever fills it; None until looked up.
    """

    __slots__ = (
        "account",
        "gets",
        "level",
        "next",
        "order_id",
        "pays",
        "post_only",
        "previous",
        "price",
        "quantity",
        "rate_ppm",
        "reserve",
        "side",
    )
    level: Level

    def __init__(
        self,
        order_id: int,
        account: int,
        side: int,
        price: int,
        quantity: int,
        rate_ppm: int,
        post_only: bool = False,
        reserve: int = 0,
        pays: list[int] | None = None,
        gets: list[int] | None = None,
    ) -> None:
        self.order_id = order_id
        self.account = account
        self.side = side
        self.price = price
        self.quantity = quantity
        self.rate_ppm = rate_ppm
        self.post_only = post_only
        self.reserve = reserve
        self.pays = pays
        self.gets = gets
        self.previous: Order | None = None
        self.next: Order | None = None


class Level:
    """The queue of one price; an empty one has neither head nor tail."""

    __slots__ = ("head", "tail")

    def __init__(self, order: Order) -> None:
        self.head: Order | None = order
        self.tail: Order | None = order


class Book:
    """Both sides of one market."""

    __slots__ = ("heaps", "levels", "orders")

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        # Keys are negated prices for bids, so that the best of either side is the smallest key.
        self.levels: tuple[dict[int, Level], dict[int, Level]] = ({}, {})
        self.heaps: tuple[list[int], list[int]] = ([], [])

    def rest(self, order: Order) -> None:
        """Put an order at the end of its price's queue."""
        side = order.side
        key = -order.price if side == BUY else order.price
        levels = self.levels[side]
        level = levels.get(key)
        self.orders[order.order_id] = order
        if level is None:
            order.level = levels[key] = Level(order)
            heappush(self.heaps[side], key)
            return
        order.level = level
        tail = level.tail
        if tail is None:
            level.head = order
        else:
            tail.next = order
            order.previous = tail
        level.tail = order

    def remove(self, order: Order) -> None:
        """Take an order out, wherever it stands in its queue."""
        del self.orders[order.order_id]
        before, after, level = order.previous, order.next, order.level
        if before is None:
            level.head = after
        else:
            before.next = after
        if after is None:
            level.tail = before
        else:
            after.previous = before
        order.previous = order.next = None

    def best(self, side: int) -> Order | None:
        """The first order in line on a side; None for an empty one."""
        heap = self.heaps[side]
        levels = self.levels[side]
        while heap:
            head = levels[heap[0]].head
            if head is not None:
                return head
            del levels[heappop(heap)]
        return None

    def crosses(self, side: int, price: int) -> bool:
        """Whether an order of a side at a price would match at all."""
        maker = self.best(SELL if side == BUY else BUY)
        return maker is not None and (maker.price <= price if side == BUY else maker.price >= price)

    def fills_whole(self, side: int, price: int, quantity: int, account: int) -> bool:
        """Whether an order of a side would be filled whole at once, before it meets one of its own account."""
        if not self.crosses(side, price):
            return False
        levels = self.levels[SELL if side == BUY else BUY]
        reach = price if side == BUY else -price
        for key in sorted(one for one in levels if one <= reach):
            order: Order | None = levels[key].head
            while order is not None:
                if order.account == account:
                    return False
                quantity -= order.quantity
                if quantity <= 0:
                    return True
                order = order.next
        return False

    def queue(self, side: int) -> Iterator[Order]:
        """A side's orders, best price first, oldest first."""
        levels = self.levels[side]
        for key in sorted(levels):
            order: Order | None = levels[key].head
            while order is not None:
                yield order
                order = order.next
