"""What a tape's streams trade in: ticks, lots, and asset decimals that make tick x lot a whole number of units.

What belongs here: the table of known streams and what follows from it.
What does not: reading a tape (see `tape`), and the demo's markets (see `demo_world`).

Ticks and lots are the exchange's own filters at the time (checked against the files: the finest prices and quantities
printed use every digit of them): 2019 XRPETH 0.00000001 and 1; 2024 BTCUSDT 0.01 and 0.00001, ETHUSDT 0.01 and 0.0001.
BTCUSDT's smallest notional is 0.0000001 USDT, so USDT has 8 decimals on a tape, not the coin's 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from engine.money import to_units

DECIMALS = {"USDT": 8, "BTC": 8, "ETH": 18, "XRP": 6}
"""Decimals of the assets on a tape."""

ASSET_IDS = {"USDT": 1, "BTC": 2, "ETH": 3, "XRP": 4}


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream of prints: a market of an exchange and a symbol in it."""

    market: str
    symbol: str
    market_id: int
    base: str
    quote: str
    tick: Decimal
    lot: Decimal

    @property
    def stream(self) -> str:
        """The stream's name: `spot:BTCUSDT`. Market and symbol together, since spot and futures share symbols."""
        return f"{self.market}:{self.symbol}"

    @property
    def base_units_per_lot(self) -> int:
        """Smallest base units in one lot."""
        return to_units(self.lot, DECIMALS[self.base], record=self.stream)

    @property
    def quote_units_per_tick_lot(self) -> int:
        """Smallest quote units in one tick times one lot; whole, or this stream cannot be traded."""
        return to_units(self.tick * self.lot, DECIMALS[self.quote], record=self.stream)


_SPECS = (
    StreamSpec("spot", "BTCUSDT", 1, "BTC", "USDT", Decimal("0.01"), Decimal("0.00001")),
    StreamSpec("spot", "ETHUSDT", 2, "ETH", "USDT", Decimal("0.01"), Decimal("0.0001")),
    StreamSpec("spot", "XRPETH", 3, "XRP", "ETH", Decimal("0.00000001"), Decimal("1")),
)
STREAMS = {spec.stream: spec for spec in _SPECS}
"""Every known stream by name."""
