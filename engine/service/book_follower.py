"""A consumer's copy of one public book: it applies deltas, sees when one is missing, and starts again.

What belongs here: the copy and its three ways to notice that it is wrong. What does not: how messages arrive.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Awaitable, Callable
from decimal import Decimal

from engine.errors import UncheckedError
from engine.service.market_data import orderbook_hash

AskSnapshot = Callable[[], Awaitable[bytes]]


class BookFollower:
    """One market's book, kept from its deltas.

    Args:
        ask_snapshot: asks the service for the whole book.

    Attributes:
        resyncs: how often the copy was thrown away, the first snapshot not counted.
    """

    def __init__(self, ask_snapshot: AskSnapshot) -> None:
        self._ask = ask_snapshot
        self._bids: dict[str, str] = {}
        self._asks: dict[str, str] = {}
        self.sequence: int | None = None
        self.resyncs = 0

    @property
    def bids(self) -> list[tuple[str, str]]:
        """Price and quantity, best first."""
        return sorted(self._bids.items(), key=lambda level: Decimal(level[0]), reverse=True)

    @property
    def asks(self) -> list[tuple[str, str]]:
        """Price and quantity, best first."""
        return sorted(self._asks.items(), key=lambda level: Decimal(level[0]))

    @property
    def hash(self) -> str:
        """The `orderbook_hash` of the copy."""
        return orderbook_hash(self.bids, self.asks)

    async def start(self) -> None:
        """Take a snapshot; deltas that it holds already are passed over when they come.

        Raises:
            UncheckedError: there is none.
        """
        told = await self._ask()
        # A long one is packed by zlib: JSON begins with a brace.
        snapshot = json.loads(told if told.startswith(b"{") else zlib.decompress(told))
        if "error" in snapshot:
            raise UncheckedError(
                f"the book has no snapshot: {snapshot['error']['reason']}",
                rule="a copy begins with the whole book",
                next_step="check the market's name; for too_long, raise max_payload of the NATS server",
            )
        self._bids = dict(snapshot["bids"])
        self._asks = dict(snapshot["asks"])
        self.sequence = snapshot["sequence"]

    async def on_delta(self, data: bytes) -> None:
        """Apply a delta; where one before it is missing, or the hash differs after it, take a snapshot again.

        A state changes nothing: it says which delta is the last, and the hash after it.
        """
        delta = json.loads(data)
        if self.sequence is None:
            await self.start()
        assert self.sequence is not None, "there is a snapshot"
        if delta["type"] == "state":
            missed = delta["sequence"] > self.sequence
            if missed or (delta["sequence"] == self.sequence and delta["orderbookHash"] != self.hash):
                await self._resync()
            return
        if delta["sequence"] <= self.sequence:
            return
        if delta["previous"] != self.sequence:
            await self._resync()
            return
        for levels, changes in ((self._bids, delta["bids"]), (self._asks, delta["asks"])):
            for price, quantity in changes:
                if quantity == "0":
                    levels.pop(price, None)
                else:
                    levels[price] = quantity
        self.sequence = delta["sequence"]
        if "orderbookHash" in delta and delta["orderbookHash"] != self.hash:
            await self._resync()

    async def _resync(self) -> None:
        self.resyncs += 1
        await self.start()
