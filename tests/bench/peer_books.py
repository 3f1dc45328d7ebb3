"""Order books from PyPI driven over one stream: run by an interpreter of their own, outside this project's lock.

`python tests/bench/peer_books.py NAME < stream.json` reads `[[kind, side, quantity, id, price], ...]` (0 new, 1 cancel;
0 buy, 1 sell; ids count from 1 in order of arrival) and prints `{"seconds": ..., "trades": [[price, quantity], ...]}`.
Only the calls into the book are timed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

Rows = list[list[int]]
Trades = list[list[int]]


def lightmatchingengine(rows: Rows) -> tuple[float, Trades]:
    from lightmatchingengine.lightmatchingengine import LightMatchingEngine

    engine, placed, trades = LightMatchingEngine(), {}, []
    started = time.perf_counter()
    for kind, side, quantity, number, price in rows:
        if kind:
            engine.cancel_order(placed[number], "X")
            continue
        order, fills = engine.add_order("X", price, quantity, 1 if side == 0 else 2)
        placed[number] = order.order_id
        # It reports one trade for the taker and then one for each maker.
        trades += [[int(f.trade_price), int(f.trade_qty)] for f in fills if f.order_id != order.order_id]
    return time.perf_counter() - started, trades


def limit_order_book(rows: Rows) -> tuple[float, Trades]:
    """It keeps no trades: what is compared instead is what stands at the end, as [best, volume] of sells and buys."""
    from limit_order_book import LimitOrderBook

    book = LimitOrderBook()
    started = time.perf_counter()
    for kind, side, quantity, number, price in rows:
        if kind:
            book.cancel(number)
        elif side == 0:
            book.limit_buy(number, quantity, price)
        else:
            book.limit_sell(number, quantity, price)
    seconds = time.perf_counter() - started
    return seconds, [[book.best_sell(), book.volume_sell()], [book.best_buy(), book.volume_buy()]]


def pyorderbook(rows: Rows) -> tuple[float, Trades]:
    from pyorderbook import Book, ask, bid

    book, placed, trades = Book(), {}, []
    started = time.perf_counter()
    for kind, side, quantity, number, price in rows:
        if kind:
            book.cancel(placed[number])
            continue
        order = (bid if side == 0 else ask)("X", price, quantity)
        placed[number] = order
        trades += [[int(t.fill_price), int(t.fill_quantity)] for t in book.match(order).trades]
    return time.perf_counter() - started, trades


def order_matching(rows: Rows) -> tuple[float, Trades]:
    from datetime import datetime, timedelta

    from loguru import logger
    from order_matching.enums import Side
    from order_matching.matching_engine import MatchingEngine
    from order_matching.order import LimitOrder
    from order_matching.orders import Orders

    logger.remove()
    engine, trades = MatchingEngine(seed=1), []
    now = datetime(2026, 1, 1)  # noqa: DTZ001 - it compares with naive times
    started = time.perf_counter()
    for kind, side, quantity, number, price in rows:
        if kind:
            raise SystemExit("new orders only")
        now += timedelta(microseconds=1)
        sides = Side.BUY if side == 0 else Side.SELL
        order = LimitOrder(side=sides, price=price, size=quantity, timestamp=now, order_id=str(number), trader_id="t")
        engine.place(orders=Orders([order]))
        trades += [[int(t.price), int(t.size)] for t in engine.match(timestamp=now).trades]
    return time.perf_counter() - started, trades


PEERS: dict[str, Callable[[Rows], tuple[float, Trades]]] = {
    "lightmatchingengine": lightmatchingengine,
    "limit-order-book": limit_order_book,
    "pyorderbook": pyorderbook,
    "order-matching": order_matching,
}

if __name__ == "__main__":
    seconds, found = PEERS[sys.argv[1]](json.load(sys.stdin))
    json.dump({"seconds": seconds, "trades": found}, sys.stdout)
