"""Venues: prices of other exchanges, through anything shaped like a ccxt exchange.

What belongs here: asking one venue for tickers, and making a venue by name where ccxt is installed.
What does not: storing what it said (see `engine.store.market`), and what becomes of it (see `engine.market`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.errors import ConfigError, UncheckedError
from engine.market.readings import raw_of

NAMES = ("binance", "coinbase", "kraken", "okx")
"""Venues that are known by name; any other that ccxt has may be named too."""

Tickers = Mapping[str, Mapping[str, Any]]


class Venue(Protocol):
    """What is used of a ccxt exchange."""

    id: str

    def fetch_ticker(self, symbol: str) -> Mapping[str, Any]:
        """One ticker: `last` as number or text, `timestamp` in milliseconds or None."""


def by_name(name: str) -> Venue:
    """A venue of ccxt, with its numbers as text.

    Raises:
        ConfigError: ccxt is not installed, or has no such venue.
    """
    try:
        ccxt = importlib.import_module("ccxt")
    except ImportError:
        raise ConfigError(
            f"venue {name} cannot be asked: ccxt is not installed",
            rule="venues are asked through the optional package ccxt",
            next_step="install it beside Compline: uv pip install ccxt; or load readings from a file",
        ) from None
    kind = getattr(ccxt, name, None) if name.isidentifier() else None
    if kind is None or name not in getattr(ccxt, "exchanges", ()):
        raise ConfigError(f"ccxt has no venue {name}", next_step=f"known by name: {', '.join(NAMES)}")
    venue: Venue = kind({"enableRateLimit": True, "timeout": 10_000})
    venue.number = str  # type: ignore[attr-defined]  # ccxt then hands on the venue's own digits
    return venue


def ask(venue: Venue, symbols: Sequence[str]) -> bytes:
    """What a venue says of these symbols now, as the bytes to store; symbols that it does not know are left out.

    Raises:
        UncheckedError: it does not answer, or knows none of them.
    """
    try:
        found = _all_at_once(venue, symbols)
    except Exception as error:
        raise _unreachable(venue, error) from error
    if found is None:
        found, failure = {}, None
        for symbol in symbols:
            try:
                found[symbol] = venue.fetch_ticker(symbol)
            except Exception as error:  # what a symbol that it does not list raises differs from venue to venue
                failure = error
        if not found:
            raise _unreachable(venue, failure or ValueError("no symbol was asked for")) from failure
    return raw_of({symbol: one for symbol, one in found.items() if symbol in symbols})


def _all_at_once(venue: Venue, symbols: Sequence[str]) -> dict[str, Mapping[str, Any]] | None:
    """All tickers in one call; None where the venue has no such call."""
    has = getattr(venue, "has", {})
    call = getattr(venue, "fetch_tickers", None)
    if call is None or has.get("fetchTickers") is False:
        return None
    if not getattr(venue, "symbols", None) and hasattr(venue, "load_markets"):
        venue.load_markets()
    listed = set(getattr(venue, "symbols", None) or symbols)
    return dict(call([symbol for symbol in symbols if symbol in listed]))


def _unreachable(venue: Venue, error: Exception) -> UncheckedError:
    return UncheckedError(
        f"venue {venue.id} gave no tickers: {type(error).__name__}: {str(error)[:200]}",
        rule="a source that does not answer is UNKNOWN; the others are asked all the same",
        next_step="the next poll asks again",
    )
