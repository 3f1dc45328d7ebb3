"""The index price: venues' prices of one asset made into one, exactly.

What belongs here: median, band, weights, staleness and the least number of sources.
What does not: reading venues (see `engine.gateways`), and which source a mark comes from (the policy).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from engine.errors import ConfigError
from engine.money import from_units

INDEX = "index"
LAST_TRADE = "last_trade"
PLACES = 18
MILLION = 1_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")


@dataclass(frozen=True, slots=True)
class IndexRule:
    """How an index price is made.

    Attributes:
        weights: of the venues, by name; any positive whole numbers.
        min_sources: fewer fresh venues make no price.
        band_ppm: how far from the median a price counts as it is, in parts per million of the median.
        max_age_s: oldest price that counts, in seconds before the instant.
    """

    weights: dict[str, int]
    min_sources: int
    band_ppm: int
    max_age_s: int

    @classmethod
    def of(
        cls,
        sources: Sequence[str],
        venues: Sequence[tuple[str, int]],
        min_sources: int,
        band_ppm: int,
        max_age_s: int,
    ) -> IndexRule | None:
        """The rule of a policy, none where it names no venues.

        Raises:
            ConfigError: a name, weight or bound cannot be used, or the index is a source and can never have a price.
        """
        if not sources or len(set(sources)) != len(sources) or not all(_is_name(one) for one in sources):
            raise _refusal("mark_sources", sources, "one or more names, none twice")
        if not all(isinstance(one, tuple) and len(one) == 2 and _is_name(one[0]) for one in venues):
            raise _refusal("index_venues", venues, "[name, weight] a venue")
        weights = dict(venues)
        if len(weights) != len(venues) or not all(type(w) is int and w > 0 for w in weights.values()):
            raise _refusal("index_venues", venues, "each venue once, with a positive whole weight")
        for name, value, most in (
            ("index_min_sources", min_sources, 1000),
            ("index_band_ppm", band_ppm, MILLION - 1),
            ("index_max_age_s", max_age_s, 86_400),
        ):
            if type(value) is not int or not (0 if name == "index_band_ppm" else 1) <= value <= most:
                raise _refusal(name, value, f"a whole number up to {most}")
        if INDEX in sources and len(venues) < min_sources:
            raise _refusal("index_venues", venues, f"the index is a source and wants {min_sources} venues or more")
        return cls(weights, min_sources, band_ppm, max_age_s) if venues else None


@dataclass(frozen=True, slots=True)
class Quote:
    """What one venue said: its price of an asset, and when that price was made."""

    venue: str
    price: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class Constituent:
    """A venue's part in an index price: its price as it counted, and whether the band moved it."""

    venue: str
    price: Decimal
    counted: Fraction
    weight: int

    @property
    def clamped(self) -> bool:
        """Whether the band moved it."""
        return self.counted != Fraction(self.price)


@dataclass(frozen=True, slots=True)
class IndexPrice:
    """An index price: rounded once, half to even, at 18 decimals; as old as its oldest constituent."""

    price: Decimal
    at: datetime
    constituents: tuple[Constituent, ...]


def index_price(quotes: Sequence[Quote], rule: IndexRule, instant: datetime) -> IndexPrice | None:
    """The index price of an asset at an instant; None where fewer than the least number of venues has a fresh one.

    Each venue counts once, with its last price at or before the instant. The median is over the fresh venues, without
    weights; a price beyond the band counts as the band's edge. A venue that the rule does not name is not asked.

    Args:
        quotes: in any order.
        rule: weights, band, age.
        instant: no later price is looked at.
    """
    oldest = instant - timedelta(seconds=rule.max_age_s)
    last: dict[str, Quote] = {}
    for one in sorted(quotes, key=lambda quote: (quote.at, quote.price)):
        if one.venue in rule.weights and oldest <= one.at <= instant:
            last[one.venue] = one
    if len(last) < rule.min_sources:
        return None
    middle = median([Fraction(one.price) for one in last.values()])
    reach = middle * rule.band_ppm / MILLION
    parts = tuple(
        Constituent(name, one.price, min(max(Fraction(one.price), middle - reach), middle + reach), rule.weights[name])
        for name, one in sorted(last.items())
    )
    exact = sum((part.counted * part.weight for part in parts), Fraction(0)) / sum(part.weight for part in parts)
    price = from_units(round(exact * 10**PLACES), PLACES)
    if price <= 0:
        return None
    return IndexPrice(price, min(one.at for one in last.values()), parts)


def median(values: Sequence[Fraction]) -> Fraction:
    """The middle value, or the exact mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _refusal(name: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"the policy's {name} is {value!r}", rule=rule, next_step="correct the policy file")
