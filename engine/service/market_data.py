"""Market data: the public book by price level, its deltas, and what a trade looked like.

What belongs here: levels kept beside a followed engine, the messages about them, and the `orderbook_hash`.
What does not: sending them, and keeping a copy at the other end (see `book_follower`).

A delta names the delta before it (`previous`), so that a consumer sees when one is missing; every `HASH_EVERY`-th also
carries the hash of the whole book after it. A quantity of 0 takes a level away. A state names the last delta and the
hash, and comes whether there are deltas or not: nothing else tells that the last one of a silent market is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from engine.clock import iso_of_us
from engine.exchange.codec import JournalRecord
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import (
    Event,
    OrderAccepted,
    OrderAmended,
    OrderCancelled,
    OrderReduced,
    Side,
    Trade,
)
from engine.exchange.state import Market
from engine.service.scales import Scales

HASH_EVERY = 50
BOOK, TRADE, TICKER = "marketdata.orderbook", "marketdata.trade", "marketdata.ticker"
SNAPSHOT = f"{BOOK}.snapshot"
Levels = Iterable[tuple[str, str]]
"""Price and quantity as text, best first."""
Told = tuple[str, bytes]


def orderbook_hash(bids: Levels, asks: Levels) -> str:
    """SHA-256 over a line `b|price|quantity` a bid and then `a|price|quantity` an ask, best first, in hex."""
    text = "".join(f"b|{price}|{quantity}\n" for price, quantity in bids)
    text += "".join(f"a|{price}|{quantity}\n" for price, quantity in asks)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class _Book:
    """Levels of one market in ticks and lots, and where its deltas are."""

    def __init__(self) -> None:
        self.levels: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.sequence = 0
        self.deltas = 0
        self.state: tuple[int, Told] | None = None


class MarketData:
    """The public books of an exchange.

    Args:
        engine: a follower's; its resting orders are the books to begin with.
    """

    def __init__(self, engine: ExchangeEngine) -> None:
        self._engine = engine
        self._scales = Scales(engine.registry)
        self._books: dict[int, _Book] = {}
        self._orders: dict[int, tuple[int, int, int, int]] = {}
        for number, order in engine.resting():
            self._place(order.order_id, number, order.side, order.price, order.quantity)
        for number in engine.registry.markets:
            self._book(number).sequence = engine.last_seq

    def apply(self, record: JournalRecord, events: list[Event]) -> list[Told]:
        """Follow one command; the messages about it, deltas first."""
        touched: dict[int, set[tuple[int, int]]] = {}
        trades: list[Trade] = []
        for event in events:
            if isinstance(event, Trade):
                trades.append(event)
                self._follow(event.maker_order_id, event.market, touched)
                self._follow(event.taker_order_id, event.market, touched)
            elif isinstance(event, OrderAccepted | OrderCancelled | OrderReduced | OrderAmended):
                self._follow(event.order_id, event.market, touched)
        told = [self._delta(record, number, levels) for number, levels in touched.items() if levels]
        for trade in trades:
            told.extend(self._traded(trade))
        return told

    def states(self) -> list[Told]:
        """A message a market: where its deltas are, and the hash of its book."""
        told = []
        for number, market in sorted(self._engine.registry.markets.items()):
            book = self._book(number)
            if book.state is None or book.state[0] != book.sequence:
                state = {"type": "state", "symbol": market.symbol, "sequence": book.sequence}
                digest = orderbook_hash(self._side(market, Side.BUY), self._side(market, Side.SELL))
                book.state = book.sequence, (f"{BOOK}.{market.symbol}", _json({**state, "orderbookHash": digest}))
            told.append(book.state[1])
        return told

    def snapshot(self, symbol: str) -> bytes | None:
        """The whole book of a market; None where there is no such market."""
        market = self._engine.registry.market_by_symbol.get(symbol)
        if market is None:
            return None
        book = self._book(market.market)
        bids, asks = self._side(market, Side.BUY), self._side(market, Side.SELL)
        return _json(
            {
                "type": "snapshot",
                "symbol": symbol,
                "sequence": book.sequence,
                "bids": bids,
                "asks": asks,
                "orderbookHash": orderbook_hash(bids, asks),
            }
        )

    def _book(self, number: int) -> _Book:
        return self._books.setdefault(number, _Book())

    def _place(self, order_id: int, number: int, side: int, price: int, quantity: int) -> None:
        self._orders[order_id] = (number, side, price, quantity)
        levels = self._book(number).levels[side]
        levels[price] = levels.get(price, 0) + quantity

    def _follow(self, order_id: int, number: int, touched: dict[int, set[tuple[int, int]]]) -> None:
        """Bring an order's part in its level to what rests of it now."""
        levels = touched.setdefault(number, set())
        before = self._orders.pop(order_id, None)
        if before is not None:
            _, side, price, quantity = before
            of_side = self._book(number).levels[side]
            of_side[price] -= quantity
            if not of_side[price]:
                del of_side[price]
            levels.add((side, price))
        order = self._engine.order(order_id)
        if order is not None:
            self._place(order_id, number, order.side, order.price, order.quantity)
            levels.add((order.side, order.price))

    def _delta(self, record: JournalRecord, number: int, levels: set[tuple[int, int]]) -> Told:
        market, book = self._engine.registry.markets[number], self._book(number)
        sides: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
        for side, price in sorted(levels):
            quantity = book.levels[side].get(price, 0)
            sides[side].append((self._scales.price(market, price), self._scales.quantity(market, quantity)))
        delta: dict[str, Any] = {
            "type": "delta",
            "symbol": market.symbol,
            "sequence": record.seq,
            "previous": book.sequence,
            "bids": sides[Side.BUY],
            "asks": sides[Side.SELL],
        }
        book.sequence = record.seq
        book.deltas += 1
        if book.deltas % HASH_EVERY == 0:
            delta["orderbookHash"] = orderbook_hash(self._side(market, Side.BUY), self._side(market, Side.SELL))
        return f"{BOOK}.{market.symbol}", _json(delta)

    def _traded(self, trade: Trade) -> list[Told]:
        market = self._engine.registry.markets[trade.market]
        price = self._scales.price(market, trade.price_ticks)
        payload = {
            "symbol": market.symbol,
            "tradeId": str(trade.trade_id),
            "price": price,
            "quantity": self._scales.quantity(market, trade.quantity_lots),
            "takerSide": "buy" if trade.taker_side == Side.BUY else "sell",
            "sequence": trade.engine_seq,
            "timestamp": iso_of_us(trade.sequenced_us),
        }
        best = {
            name: self._scales.price(market, order.price) if order is not None else None
            for name, order in (
                ("bid", self._engine.best(trade.market, Side.BUY)),
                ("ask", self._engine.best(trade.market, Side.SELL)),
            )
        }
        ticker = {"symbol": market.symbol, "last": price, **best, "sequence": trade.engine_seq}
        return [(f"{TRADE}.{market.symbol}", _json(payload)), (f"{TICKER}.{market.symbol}", _json(ticker))]

    def _side(self, market: Market, side: Side) -> list[tuple[str, str]]:
        levels = self._book(market.market).levels[side]
        return [
            (self._scales.price(market, price), self._scales.quantity(market, levels[price]))
            for price in sorted(levels, reverse=side == Side.BUY)
        ]


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
