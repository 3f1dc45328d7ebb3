"""Index ticks of a day: at every instant at which venues were read, the index price of every asset that has one.

What belongs here: going through readings in their order and keeping each venue's last word.
What does not: one index price (see `index`), reading bytes (see `readings`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from engine.errors import InputError
from engine.market.index import IndexPrice, IndexRule, Quote, index_price
from engine.market.readings import read_tickers


@dataclass(frozen=True, slots=True)
class StoredReading:
    """A row of `capture.readings`: venue, instant, bytes."""

    reading_id: int
    venue: str
    at: datetime
    raw: bytes


@dataclass(frozen=True, slots=True)
class IndexTick:
    """An index price at an instant, and the reading that each venue's part came from."""

    asset: str
    at: datetime
    price: IndexPrice
    readings: dict[str, int]


@dataclass
class Ticks:
    """The day's ticks, and what of its readings was dropped.

    Attributes:
        unknown: symbols that no coin of the book has, with how often they came.
        refused: prices that cannot be used: (venue and why), with how often.
    """

    ticks: list[IndexTick] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


def index_ticks(readings: Iterable[StoredReading], rule: IndexRule, assets: Collection[str], currency: str) -> Ticks:
    """The index price of each asset at each instant of reading.

    Args:
        readings: ascending by instant.
        rule: weights, band, age, least number of venues.
        assets: symbols of this book's coins.
        currency: the reporting currency.
    """
    done = Ticks()
    last: defaultdict[str, dict[str, tuple[Quote, int]]] = defaultdict(dict)
    for at, group in groupby(readings, key=lambda one: one.at):
        for reading in group:
            if reading.venue not in rule.weights:
                continue
            try:
                read = read_tickers(reading.venue, reading.at, reading.raw, assets, currency)
            except InputError as error:
                done.refused[error.what] += 1
                continue
            done.unknown.update(read.unknown)
            done.refused.update(f"{reading.venue} {why}" for why in read.refused.values())
            for asset, quote in read.quotes.items():
                last[asset][reading.venue] = (quote, reading.reading_id)
        for asset, parts in sorted(last.items()):
            price = index_price([quote for quote, _ in parts.values()], rule, at)
            if price is not None:
                used = {part.venue: parts[part.venue][1] for part in price.constituents}
                done.ticks.append(IndexTick(asset, at, price, used))
    return done
