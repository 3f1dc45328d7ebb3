"""What a message does: one request becomes one journalled command, or an answer, or a refusal.

What belongs here: requests to commands, events to replies.
What does not: bytes (see `messages`), when a reply may leave (see `group`).

A reply may leave only after the group of its command is on the disk, also the reply to a question: it speaks of a state
that may hold commands of the same group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.clock import iso_of_us
from engine.exchange import commands as cmd
from engine.exchange.book import BUY
from engine.exchange.events import (
    Event,
    Marked,
    OrderAmended,
    OrderCancelled,
    OrderReduced,
    Rejected,
    RejectReason,
    Trade,
    Transfer,
    TransferKind,
)
from engine.exchange.requests import STAGING, commands_of
from engine.exchange.sequencer import Sequencer
from engine.exchange.state import Market
from engine.exchange.transfers import KINDS
from engine.service.messages import (
    TIF_NAMES,
    AmendRequest,
    BalancesRequest,
    CancelAllRequest,
    CancelRequest,
    MarkerRequest,
    OfferedRequest,
    OrderRequest,
    ReduceRequest,
    RefusedMessageError,
    Request,
    TransferRequest,
)
from engine.service.scales import Scales

Reply = dict[str, Any]
_REMEMBERED = 1_000
_MARKET = cmd.TimeInForce.MARKET
_TIF_WORDS = tuple(TIF_NAMES[tif] for tif in cmd.TimeInForce)
NOBODY = 0
NOWHERE = 0
"""Numbers that no account and no market ever has: what is journalled for a name that nobody knows."""
_TRANSFERS: dict[TransferKind, Callable[[int, int, int, str], cmd.TransferCommand]] = {
    kind: command for command, kind in KINDS.items()
}


class Desk:
    """Turns requests into commands of one exchange and events into replies.

    Args:
        sequencer: the only writer of the exchange.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self.sequencer = sequencer
        self.scales = Scales(sequencer.engine.registry)
        self._handlers: dict[type, Callable[[Any, int], Reply]] = {
            OrderRequest: self._order,
            CancelRequest: self._cancel,
            AmendRequest: self._amend,
            ReduceRequest: self._reduce,
            CancelAllRequest: self._cancel_all,
            BalancesRequest: self._balances,
            TransferRequest: self._transfer,
            OfferedRequest: self._offered,
            MarkerRequest: self._mark,
        }
        self._started_at = sequencer.engine.last_seq
        self._requested: dict[tuple[str, str], int] = {}
        self._marked: list[Marked] = []

    def handle(self, request: Request, at_us: int) -> Reply:
        """Do what a request asks; what it returned may be told after the next commit.

        Args:
            request: a parsed message.
            at_us: when it arrived.

        Raises:
            RefusedMessageError: it cannot be a command of this exchange; nothing was sequenced.
            JournalWriteError: the disk refused.
        """
        return self._handlers[type(request)](request, at_us)

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
        filled, cancelled = 0, False
        for event in events:
            if isinstance(event, Trade):
                filled += event.quantity_lots
            elif isinstance(event, OrderCancelled):
                cancelled = True
        left = command.quantity_lots - filled
        # An order's number is its sequence.
        order_id = self.sequencer.engine.last_seq
        if cancelled:
            status = "cancelled"
        elif left:
            status = "partially_filled" if filled else "open"
        else:
            status = "filled"
        scales = self.scales
        return {
            "orderId": str(order_id),
            "clientOrderId": command.reference,
            "userId": scales.name(command.account),
            "symbol": market.symbol,
            "side": "buy" if command.side == BUY else "sell",
            "type": "market" if command.tif == _MARKET else "limit",
            "timeInForce": _TIF_WORDS[command.tif],
            "price": scales.price(market, command.price_ticks) if command.price_ticks else None,
            "quantity": scales.quantity(market, command.quantity_lots),
            "filledQuantity": scales.quantity(market, filled),
            "remainingQuantity": scales.quantity(market, left),
            "status": status,
            "trades": self._fills(market, events) if filled else [],
            "sequence": order_id,
            "timestamp": iso_of_us(self.sequencer.engine.last_ts_us),
        }

    def _fills(self, market: Market, events: list[Event]) -> list[Reply]:
        """What a taking order traded."""
        return [
            {
                "tradeId": str(fill.trade_id),
                "price": self.scales.price(market, fill.price_ticks),
                "quantity": self.scales.quantity(market, fill.quantity_lots),
                "fee": self.scales.amount(market.quote, fill.taker_fee_units),
            }
            for fill in events
            if isinstance(fill, Trade)
        ]

    def _resting_in(self, order_id: int, symbol: str) -> Market | None:
        """The market that a message names, which must be the one where the order rests.

        Raises:
            RefusedMessageError: the order rests elsewhere.
        """
        resting = self.sequencer.engine.state.order_market.get(order_id)
        market = self.scales.registry.market_by_symbol.get(symbol)
        if resting is not None and (market is None or market.market != resting):
            raise RefusedMessageError("symbol_mismatch", f"order {order_id} does not rest in market {symbol}")
        return market

    def _cancel(self, request: CancelRequest, at_us: int) -> Reply:
        self._resting_in(request.order_id, request.symbol)
        events = self.sequencer.submit(cmd.CancelOrder(self.scales.account(request.user), request.order_id), at_us)
        return self._changed(request.order_id, events)

    def _reduce(self, request: ReduceRequest, at_us: int) -> Reply:
        market = self._resting_in(request.order_id, request.symbol)
        quantity = 0 if market is None else self.scales.lots(market, request.quantity)
        command = cmd.ReduceOrder(self.scales.account(request.user), request.order_id, quantity)
        return self._changed(request.order_id, self.sequencer.submit(command, at_us))

    def _amend(self, request: AmendRequest, at_us: int) -> Reply:
        market = self._resting_in(request.order_id, request.symbol)
        price = 0 if market is None else self.scales.ticks(market, request.price)
        quantity = 0 if market is None else self.scales.lots(market, request.quantity)
        command = cmd.AmendOrder(self.scales.account(request.user), request.order_id, price, quantity)
        return self._changed(request.order_id, self.sequencer.submit(command, at_us))

    def _changed(self, order_id: int, events: list[Event]) -> Reply:
        """What became of a resting order that was cancelled, reduced or amended."""
        rejected = _rejection(events)
        if rejected is not None:
            return {"success": False, "error": _error(rejected)}
        event = next(e for e in events if isinstance(e, OrderCancelled | OrderReduced | OrderAmended))
        market = self.scales.registry.markets[event.market]
        cancelled = next((e for e in events if isinstance(e, OrderCancelled)), None)
        resting = self.sequencer.engine.order(order_id)
        if cancelled is not None:
            status, left = "cancelled", cancelled.quantity_lots
        else:
            status, left = ("open", resting.quantity) if resting is not None else ("filled", 0)
        reply: Reply = {
            "orderId": str(order_id),
            "symbol": market.symbol,
            "status": status,
            "remainingQuantity": self.scales.quantity(market, left),
            "sequence": event.engine_seq,
        }
        if isinstance(event, OrderAmended):
            reply["price"] = self.scales.price(market, event.price_ticks)
            reply["trades"] = self._fills(market, events)
        return {"success": True, "order": reply}

    def _cancel_all(self, request: CancelAllRequest, at_us: int) -> Reply:
        number = 0
        if request.symbol is not None:
            registry = self.scales.registry
            market = registry.market_by_symbol.get(request.symbol)
            # 0 is every market.
            number = registry.unlisted_market() if market is None else market.market
        events = self.sequencer.submit(cmd.CancelAll(self.scales.account(request.user), number), at_us)
        rejected = _rejection(events)
        if rejected is not None:
            return {"success": False, "error": _error(rejected)}
        cancelled = [str(event.order_id) for event in events if isinstance(event, OrderCancelled)]
        return {"success": True, "cancelled": cancelled, "sequence": self.sequencer.engine.last_seq}

    def _balances(self, request: BalancesRequest, at_us: int) -> Reply:
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

    def _transfer(self, request: TransferRequest, at_us: int) -> Reply:
        asset = self.scales.registry.asset_by_symbol.get(request.asset)
        account = self.scales.account(request.user)
        number, units = 0, 0
        if asset is not None:
            number, units = asset.asset, self.scales.units(asset.asset, request.amount)
        events = self._moved(_TRANSFERS[request.kind](account, number, units, request.reference), at_us)
        rejected = _rejection(events)
        if rejected is not None:
            return {"success": False, "error": _error(rejected)}
        done: Reply = {"success": True, "sequence": self.sequencer.engine.last_seq}
        held = any(isinstance(e, Transfer) and e.kind == TransferKind.DEPOSIT_UNALLOCATED for e in events)
        return {**done, "unallocated": True} if held else done

    def _moved(self, command: cmd.Command, at_us: int) -> list[Event]:
        """The events of a command that moves a balance; a reversal frees first what orders hold."""
        cancels = self.sequencer.engine.cancels_before(command)
        if cancels is not None:
            self.sequencer.submit(cancels, at_us)
        return self.sequencer.submit(command, at_us)

    def _offered(self, offered: OfferedRequest, at_us: int) -> Reply:
        """Journal what the database asks for, unless it may be in the journal already (see `database_watch`)."""
        request = offered.request
        name = "set_tiers" if request.kind == STAGING else request.kind, request.reference
        if offered.settled < self._started_at or name in self._requested:
            return {"success": True}
        if len(self._requested) >= _REMEMBERED:
            self._requested = {known: seq for known, seq in self._requested.items() if seq > offered.settled}
        events: list[Event] = []
        for command in commands_of(request, self.scales.registry):
            if isinstance(command, cmd.SetTiers) and self.sequencer.engine.lacks_rows(command):
                # A full queue left them out: all of it is offered again.
                return {"success": True}
            events = self._moved(command, at_us)
            self._marked += [event for event in events if isinstance(event, Marked)]
        if request.kind != STAGING:
            self._requested[name] = self.sequencer.engine.last_seq
        rejected = _rejection(events)
        return {"success": True} if rejected is None else {"success": False, "error": _error(rejected)}

    def _mark(self, request: MarkerRequest, at_us: int) -> Reply:
        events = self.sequencer.submit(cmd.Marker(), at_us)
        self._marked += [event for event in events if isinstance(event, Marked)]
        return {"success": True}

    def take_marked(self) -> list[Marked]:
        """The markers sequenced since it was last asked."""
        marked, self._marked = self._marked, []
        return marked


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
    for event in events:
        if isinstance(event, Rejected):
            return event
    return None


def _error(rejected: Rejected) -> Reply:
    """A journalled refusal, by its typed reason."""
    words = rejected.reason.name.lower()
    return {"reason": words, "message": words.replace("_", " "), "sequence": rejected.engine_seq}


def refusal(error: RefusedMessageError) -> Reply:
    """The reply to what was never sequenced."""
    return {"success": False, "error": {"reason": error.reason, "message": error.what}}
