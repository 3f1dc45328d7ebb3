"""Venue readings: what a venue said at an instant, read strictly from the bytes that were stored.

What belongs here: from raw bytes to exact prices, and what of a reading cannot be used and why.
What does not: asking venues (see `engine.gateways.venues`), storing (see `engine.store.market`), prices made of them
(see `index`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from engine.clock import from_us, iso_us
from engine.errors import InputError
from engine.market.index import Quote

SUBJECT = "tickers"
PREFIX = "venue:"
CLOCK_SKEW = timedelta(seconds=5)
"""How far a venue's clock may be ahead of ours: such a price counts as of our instant."""

_MOST = Decimal(10) ** 20
_PLACES = 18


@dataclass(frozen=True, slots=True)
class Read:
    """What a reading came to.

    Attributes:
        quotes: usable prices, by asset.
        unknown: symbols that are no asset of this book against its reporting currency; dropped.
        refused: symbols with a price that cannot be used, and why; dropped.
    """

    quotes: dict[str, Quote]
    unknown: tuple[str, ...]
    refused: dict[str, str]


def raw_of(tickers: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The bytes to store of a venue's tickers: its own words, without `info`, sorted by symbol.

    A number that a client has made a binary float is written as its shortest text, which is the venue's own for up to
    17 digits; read back it is a `Decimal` of that text.
    """
    kept = {symbol: {k: v for k, v in one.items() if k != "info"} for symbol, one in tickers.items()}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str).encode()


def read_tickers(venue: str, at: datetime, raw: bytes, assets: Collection[str], currency: str) -> Read:
    """Read a stored reading.

    Args:
        venue: its name.
        at: the instant at which it was read.
        raw: as stored.
        assets: symbols of this book's coins.
        currency: the reporting currency: `BTC/<currency>` is a price of BTC.

    Raises:
        InputError: the bytes are no tickers at all.
    """
    try:
        # Numbers stay text until they are checked: no binary float, and nothing that JSON does not know.
        found = json.loads(raw, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the reading of {venue} at {iso_us(at)} is no JSON: {error}",
            rule="a reading is an object of tickers by symbol",
            next_step="look at the venue's answer in capture.readings",
        ) from None
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise InputError(
            f"the reading of {venue} at {iso_us(at)} holds no tickers",
            rule="a reading is an object of tickers by symbol",
        )
    quotes: dict[str, Quote] = {}
    unknown, refused = [], {}
    for symbol, ticker in sorted(found.items()):
        base, _, quote = symbol.partition("/")
        if quote != currency or base not in assets or base == currency:
            unknown.append(symbol)
            continue
        try:
            quotes[base] = Quote(
                venue, price_of(ticker.get("last"), symbol), _time_of(ticker.get("timestamp"), at, symbol)
            )
        except InputError as error:
            refused[symbol] = error.what
    return Read(quotes, tuple(unknown), refused)


def price_of(text: object, record: str) -> Decimal:
    """A price from a venue's text: finite, above zero, at most 18 decimals; an exponent is allowed.

    Raises:
        InputError: it is anything else.
    """
    try:
        price = Decimal(text.strip()) if isinstance(text, str) and len(text) <= 64 and "_" not in text else None
    except InvalidOperation:
        price = None
    if price is None or not price.is_finite() or not 0 < price < _MOST:
        raise InputError(f"{record}: {str(text)[:80]!r} is no price", rule="a price is a number above zero")
    exponent = price.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_PLACES:
        raise InputError(f"{record}: {text} has more than {_PLACES} decimals", rule="prices have at most 18 decimals")
    return price


def _time_of(text: object, at: datetime, record: str) -> datetime:
    """When a price was made: what the venue says, in milliseconds, or when it was read where it does not say."""
    if text is None:
        return at
    if not isinstance(text, str) or not text.isdigit() or len(text) > 14:
        raise InputError(f"{record}: {str(text)[:80]!r} is no time", rule="a venue's time is milliseconds since 1970")
    made = from_us(int(text) * 1000)
    if made > at + CLOCK_SKEW:
        raise InputError(
            f"{record}: its price is of {iso_us(made)}, read at {iso_us(at)}", rule="no price of the future"
        )
    return min(made, at)
