"""What a message does: one request becomes one journalled command, or an answer, or a refusal.

What belongs here: requests to commands, events to replies.
What does not: bytes (see `messages`), when a reply may leave (see `group`).

A reply may leave only after the group of its command is on the disk, also the reply to a question: it speaks of a state
that may hold commands of the same group.
"""

from __future__ import annotations

from typing import Any

from engine.clock import from_us, iso_us
from engine.exchange import commands as cmd
from engine.exchange.events import (
    Event,
    OrderAccepted,
    OrderCancelled,
    Rejected,
    RejectReason,
    Side,
    Trade,
    Transfer,
    TransferKind,
)
from engine.exchange.sequencer import Sequencer
from engine.exchange.state import Market
from engine.service.messages import (
    TIF_NAMES,
    BalancesRequest,
    CancelRequest,
    CustodyRequest,
    OrderRequest,
    RefusedMessageError,
    Request,
)
from engine.service.scales import Scales

Reply = dict[str, Any]
NOBODY = 0
NOWHERE = 0
"""Numbers that no account and no market ever has: what is journalled for a name that nobody knows."""


class Desk:
    """Turns requests into commands of one exchange and events into replies.

    Args:
        sequencer: the only writer of the exchange.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self.sequencer = sequencer
        self.scales = Scales(sequencer.engine.registry)

    def handle(self, request: Request, at_us: int) -> Reply:
        """Do what a request asks; what it returned may be told after the next commit.

        Args:
            request: a parsed message.
            at_us: when it arrived.

        Raises:
            RefusedMessageError: it cannot be a command of this exchange; nothing was sequenced.
            JournalWriteError: the disk refused.
        """
        if isinstance(request, OrderRequest):
            return self._order(request, at_us)
        if isinstance(request, CancelRequest):
            return self._cancel(request, at_us)
        if isinstance(request, BalancesRequest):
            return self._balances(request)
        return self._custody(request, at_us)

    def _order(self, request: OrderRequest, at_us: int) -> Reply:
        account = self.scales.account(request.user)
        market = self.scales.registry.market_by_symbol.get(request.symbol)
        if market is None:
            # A price in ticks does not exist for a market that does not: the record says who asked, and it is rejected.
            command = cmd.NewOrder(account, NOWHERE, request.side, 0, 0, request.tif, request.client_order_id)
        else:
            price = 0 if request.price is None else self.scales.ticks(market, request.price)
            quantity = self.scales.lots(market, request.quantity)
            command = cmd.NewOrder(
                account, market.market, request.side, price, quantity, request.tif, request.client_order_id
            )
        events = self.sequencer.submit(command, at_us)
        rejected = _rejection(events)
        if rejected is not None or market is None:
            assert rejected is not None, "an order of no market is rejected"
            error = _error(rejected)
            if rejected.reason in (RejectReason.DUPLICATE_REFERENCE, RejectReason.REFERENCE_CONFLICT):
                error["orderId"] = str(self._known_order(account, request.client_order_id))
            return {"success": False, "error": error}
        return {"success": True, "order": self._placed(market, command, events)}

    def _known_order(self, account: int, reference: str) -> int:
        """The order that a client order id stands for."""
        known = self.sequencer.engine.state.known_order(account, reference)
        assert known is not None, "a duplicate reference is a known one"
        return known.seq

    def _placed(self, market: Market, command: cmd.NewOrder, events: list[Event]) -> Reply:
        """What became of an accepted order."""
        accepted = next(event for event in events if isinstance(event, OrderAccepted))
        fills = [event for event in events if isinstance(event, Trade)]
        filled = sum(fill.quantity_lots for fill in fills)
        left = command.quantity_lots - filled
        if any(isinstance(event, OrderCancelled) for event in events):
            status = "cancelled"
        elif left:
            status = "partially_filled" if filled else "open"
        else:
            status = "filled"
        scales = self.scales
        return {
            "orderId": str(accepted.order_id),
            "clientOrderId": command.reference,
            "userId": scales.name(command.account),
            "symbol": market.symbol,
            "side": "buy" if command.side == Side.BUY else "sell",
            "type": "market" if command.tif == cmd.TimeInForce.MARKET else "limit",
            "timeInForce": TIF_NAMES[command.tif],
            "price": scales.price(market, command.price_ticks) if command.price_ticks else None,
            "quantity": scales.quantity(market, command.quantity_lots),
            "filledQuantity": scales.quantity(market, filled),
            "remainingQuantity": scales.quantity(market, left),
            "status": status,
            "trades": [
                {
                    "tradeId": str(fill.trade_id),
                    "price": scales.price(market, fill.price_ticks),
                    "quantity": scales.quantity(market, fill.quantity_lots),
                    "fee": scales.amount(market.quote, fill.taker_fee_units),
                }
                for fill in fills
            ],
            "sequence": accepted.engine_seq,
            "timestamp": iso_us(from_us(self.sequencer.engine.last_ts_us)),
        }

    def _cancel(self, request: CancelRequest, at_us: int) -> Reply:
        engine = self.sequencer.engine
        resting = engine.state.order_market.get(request.order_id)
        market = self.scales.registry.market_by_symbol.get(request.symbol)
        if resting is not None and (market is None or market.market != resting):
            raise RefusedMessageError(
                "symbol_mismatch", f"order {request.order_id} does not rest in market {request.symbol}"
            )
        events = self.sequencer.submit(cmd.CancelOrder(self.scales.account(request.user), request.order_id), at_us)
        rejected = _rejection(events)
        if rejected is not None:
            return {"success": False, "error": _error(rejected)}
        cancelled = next(event for event in events if isinstance(event, OrderCancelled))
        at = self.scales.registry.markets[cancelled.market]
        return {
            "success": True,
            "order": {
                "orderId": str(cancelled.order_id),
                "symbol": at.symbol,
                "status": "cancelled",
                "remainingQuantity": self.scales.quantity(at, cancelled.quantity_lots),
                "sequence": cancelled.engine_seq,
            },
        }

    def _balances(self, request: BalancesRequest) -> Reply:
        account = self.scales.account(request.user)
        registry = self.scales.registry
        if account not in registry.accounts:
            raise RefusedMessageError("unknown_account", f"there is no account {request.user}")
        if request.asset is not None:
            if request.asset not in registry.asset_by_symbol:
                raise RefusedMessageError("unknown_asset", f"there is no asset {request.asset}")
            assets = [registry.asset_by_symbol[request.asset]]
        else:
            assets = [registry.assets[number] for number in sorted(registry.assets)]
        engine = self.sequencer.engine
        there = [(asset, engine.balance(account, asset.asset)) for asset in assets]
        return {
            "balances": [
                balance_text(self.scales, account, asset.asset, engine.state.balances.get((account, asset.asset)))
                for asset, balance in there
                if request.asset is not None or balance.total
            ],
            "sequence": engine.last_seq,
        }

    def _custody(self, request: CustodyRequest, at_us: int) -> Reply:
        asset = self.scales.registry.asset_by_symbol.get(request.asset)
        account = self.scales.account(request.user)
        kind = cmd.Deposit if request.is_deposit else cmd.Withdrawal
        units = 0
        if asset is not None:
            units = self.scales.units(asset.asset, request.amount)
        events = self.sequencer.submit(
            kind(account, asset.asset if asset is not None else 0, units, request.reference), at_us
        )
        rejected = _rejection(events)
        if rejected is not None:
            return {"success": False, "error": _error(rejected)}
        held = any(isinstance(e, Transfer) and e.kind == TransferKind.DEPOSIT_UNALLOCATED for e in events)
        return {"success": True, "unallocated": True} if held else {"success": True}


def balance_text(scales: Scales, account: int, asset: int, row: list[int] | None) -> dict[str, str]:
    """One balance as messages carry it."""
    available, locked, staked, in_transit = row or (0, 0, 0, 0)
    return {
        "asset": scales.registry.assets[asset].symbol,
        "available": scales.amount(asset, available),
        "locked": scales.amount(asset, locked),
        "staked": scales.amount(asset, staked),
        "inTransit": scales.amount(asset, in_transit),
    }


def _rejection(events: list[Event]) -> Rejected | None:
    return next((event for event in events if isinstance(event, Rejected)), None)


def _error(rejected: Rejected) -> Reply:
    """A journalled refusal, by its typed reason."""
    words = rejected.reason.name.lower()
    return {"reason": words, "message": words.replace("_", " "), "sequence": rejected.engine_seq}


def refusal(error: RefusedMessageError) -> Reply:
    """The reply to what was never sequenced."""
    return {"success": False, "error": {"reason": error.reason, "message": error.what}}
