"""The events that the world is told of: what a command and its engine events become as messages.

What belongs here: subjects and payloads of orders, trades and balances; a pure function of a command, its events and
the state right after it, so that a message's number is the same whenever it is made.
What does not: publishing (see `engine.events`), market data (see `market_data`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engine.clock import from_day_number, iso_of_us
from engine.events.ordered_publisher import Outgoing
from engine.exchange import commands as cmd
from engine.exchange.codec import JournalRecord
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import (
    Event,
    OrderAccepted,
    OrderAmended,
    OrderCancelled,
    OrderReduced,
    Rejected,
    RejectReason,
    Side,
    Trade,
    Transfer,
)
from engine.service.desk import balance_text
from engine.service.messages import TIF_NAMES
from engine.service.scales import Scales

RISK_REASONS = frozenset(
    {
        RejectReason.INVALID_PRICE,
        RejectReason.INVALID_QUANTITY,
        RejectReason.INSUFFICIENT_FUNDS,
        RejectReason.TOO_LARGE,
        RejectReason.ACCOUNT_MAY_NOT_TRADE,
        RejectReason.BELOW_MIN_QUANTITY,
        RejectReason.ABOVE_MAX_QUANTITY,
        RejectReason.BELOW_MIN_NOTIONAL,
        RejectReason.PRICE_OUTSIDE_BAND,
        RejectReason.NO_REFERENCE_PRICE,
    }
)
"""Refusals of an order's size, price or means: they are told as `risk.check.failed` too."""

_ORDER_COMMANDS = (cmd.NewOrder, cmd.CancelOrder, cmd.CancelAll, cmd.ReduceOrder, cmd.AmendOrder)
_Told = tuple[str, dict[str, Any]]


class Teller:
    """Makes the messages of commands.

    Args:
        engine: as it is right after the command that is told.
    """

    def __init__(self, engine: ExchangeEngine) -> None:
        self._engine = engine
        self._scales = Scales(engine.registry)

    def messages(self, record: JournalRecord, events: list[Event]) -> list[Outgoing]:
        """The messages of one command, in the order in which they are told."""
        command = record.command
        told: list[_Told] = []
        for event in events:
            told.extend(self._told(record, event))
        if isinstance(command, _ORDER_COMMANDS):
            told.extend(self._filled(record, events))
        told.extend(self._balances(record, events))
        return [
            Outgoing(record.seq, index, subject, json.dumps(payload, separators=(",", ":")).encode())
            for index, (subject, payload) in enumerate(told)
        ]

    def _told(self, record: JournalRecord, event: Event) -> Iterator[_Told]:
        if isinstance(event, Trade):
            payload = self._trade(event)
            yield "trades.executed", payload
            yield f"trades.executed.{payload['symbol']}", payload
        elif isinstance(event, OrderAccepted) and isinstance(record.command, cmd.NewOrder):
            yield "orders.created", self._order(record, record.command, str(event.order_id))
        elif isinstance(event, OrderCancelled):
            market = self._engine.registry.markets[event.market]
            yield (
                "orders.cancelled",
                {
                    **self._head(record, event.account),
                    "orderId": str(event.order_id),
                    "symbol": market.symbol,
                    "quantity": self._scales.quantity(market, event.quantity_lots),
                },
            )
        elif isinstance(event, Rejected) and isinstance(record.command, _ORDER_COMMANDS):
            payload = self._rejected(record, event)
            yield "orders.rejected", payload
            if event.reason in RISK_REASONS:
                yield "risk.check.failed", payload

    def _head(self, record: JournalRecord, account: int) -> dict[str, Any]:
        return {
            "userId": self._scales.name(account),
            "sequence": record.seq,
            "timestamp": iso_of_us(record.ts_us),
        }

    def _order(self, record: JournalRecord, command: cmd.NewOrder, order_id: str | None) -> dict[str, Any]:
        """An order as it was asked for."""
        market = self._engine.registry.markets.get(command.market)
        return {
            **self._head(record, command.account),
            "orderId": order_id,
            "clientOrderId": command.reference,
            "symbol": market.symbol if market else None,
            "side": "buy" if command.side == Side.BUY else "sell",
            "type": "market" if command.tif == cmd.TimeInForce.MARKET else "limit",
            "timeInForce": TIF_NAMES[command.tif],
            "price": self._scales.price(market, command.price_ticks) if market and command.price_ticks else None,
            "quantity": self._scales.quantity(market, command.quantity_lots) if market else None,
        }

    def _rejected(self, record: JournalRecord, event: Rejected) -> dict[str, Any]:
        command = record.command
        reason = {"reason": event.reason.name.lower(), "action": type(command).__name__}
        if isinstance(command, cmd.NewOrder):
            return {**self._order(record, command, None), **reason}
        asked = getattr(command, "order_id", None)
        return {**self._head(record, event.account), "orderId": str(asked) if asked else None, **reason}

    def _trade(self, trade: Trade) -> dict[str, Any]:
        scales = self._scales
        market = self._engine.registry.markets[trade.market]
        maker, taker = scales.name(trade.maker_account), scales.name(trade.taker_account)
        buyer, seller = (taker, maker) if trade.taker_side == Side.BUY else (maker, taker)
        return {
            "tradeId": str(trade.trade_id),
            "symbol": market.symbol,
            "price": scales.price(market, trade.price_ticks),
            "quantity": scales.quantity(market, trade.quantity_lots),
            "quoteQuantity": scales.amount(market.quote, trade.quote_units),
            "takerSide": "buy" if trade.taker_side == Side.BUY else "sell",
            "buyerId": buyer,
            "sellerId": seller,
            "makerId": maker,
            "takerId": taker,
            "makerOrderId": str(trade.maker_order_id),
            "takerOrderId": str(trade.taker_order_id),
            "makerFee": scales.amount(market.quote, trade.maker_fee_units),
            "takerFee": scales.amount(market.quote, trade.taker_fee_units),
            "feeAsset": self._engine.registry.assets[market.quote].symbol,
            "sequence": trade.engine_seq,
            "closeDate": from_day_number(trade.close_day).isoformat(),
            "timestamp": iso_of_us(trade.sequenced_us),
        }

    def _filled(self, record: JournalRecord, events: list[Event]) -> Iterator[_Told]:
        """Orders that this command filled to the end, in the order of their last fills."""
        cancelled = {event.order_id for event in events if isinstance(event, OrderCancelled)}
        last: dict[int, tuple[int, Trade]] = {}
        for event in events:
            if isinstance(event, Trade):
                for order, account in (
                    (event.maker_order_id, event.maker_account),
                    (event.taker_order_id, event.taker_account),
                ):
                    last.pop(order, None)
                    last[order] = (account, event)
        for order, (account, trade) in last.items():
            if order not in cancelled and self._engine.order(order) is None:
                market = self._engine.registry.markets[trade.market]
                yield (
                    "orders.filled",
                    {
                        **self._head(record, account),
                        "orderId": str(order),
                        "symbol": market.symbol,
                        "lastTradeId": str(trade.trade_id),
                        "lastPrice": self._scales.price(market, trade.price_ticks),
                    },
                )

    def _balances(self, record: JournalRecord, events: list[Event]) -> Iterator[_Told]:
        """Every balance that the command can have changed, one message a user."""
        touched: dict[int, set[int]] = {}
        for event in events:
            if isinstance(event, Trade):
                market = self._engine.registry.markets[event.market]
                for account in (event.maker_account, event.taker_account):
                    touched.setdefault(account, set()).update((market.base, market.quote))
            elif isinstance(event, Transfer):
                touched.setdefault(event.account, set()).add(event.asset)
            elif isinstance(event, OrderAccepted | OrderCancelled | OrderReduced | OrderAmended):
                market = self._engine.registry.markets[event.market]
                touched.setdefault(event.account, set()).update((market.base, market.quote))
        for account in sorted(touched):
            rows = self._engine.state.balances
            yield (
                f"balances.updated.{self._scales.name(account)}",
                {
                    **self._head(record, account),
                    "balances": [
                        balance_text(self._scales, account, asset, rows.get((account, asset)))
                        for asset in sorted(touched[account])
                    ],
                },
            )
