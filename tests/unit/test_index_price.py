"""The index price: median, band, weights, staleness, least number of venues, exact to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.close.policy import Policy
from engine.errors import ConfigError
from engine.market.index import IndexRule, Quote, index_price, median

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
RULE = IndexRule({"binance": 5, "coinbase": 3, "kraken": 2, "okx": 1}, 2, 10_000, 60)


def quote(venue: str, price: str, age_s: float = 0) -> Quote:
    return Quote(venue, Decimal(price), NOW - timedelta(seconds=age_s))


def test_weighted_average_is_exact_and_rounded_once() -> None:
    found = index_price([quote("binance", "100"), quote("coinbase", "100.3"), quote("kraken", "99.9")], RULE, NOW)
    assert found is not None
    assert found.price == Decimal("100.07")
    thirds = IndexRule({"a": 1, "b": 1, "c": 1}, 2, 10_000, 60)
    found = index_price([quote("a", "1"), quote("b", "1"), quote("c", "1.000000000000000001")], thirds, NOW)
    assert found is not None
    assert found.price == Decimal("1")


def test_large_price_keeps_all_of_its_digits() -> None:
    price = "123456789012.123456789012345678"
    found = index_price([quote("binance", price), quote("okx", price)], RULE, NOW)
    assert found is not None
    assert str(found.price) == price


def test_venue_beyond_the_band_counts_as_the_bands_edge() -> None:
    found = index_price([quote("binance", "150"), quote("coinbase", "100"), quote("kraken", "100")], RULE, NOW)
    assert found is not None
    assert found.price == (5 * Decimal(101) + 5 * Decimal(100)) / 10
    assert [(p.venue, p.clamped) for p in found.constituents] == [
        ("binance", True),
        ("coinbase", False),
        ("kraken", False),
    ]


def test_stale_venue_is_dropped_and_too_few_make_no_price() -> None:
    fresh, stale, edge = quote("binance", "100"), quote("coinbase", "70", 60.000001), quote("kraken", "100.2", 60)
    found = index_price([fresh, stale, edge], RULE, NOW)
    assert found is not None
    assert {p.venue for p in found.constituents} == {"binance", "kraken"}
    assert found.at == edge.at
    assert index_price([fresh, stale], RULE, NOW) is None
    assert index_price([], RULE, NOW) is None


def test_venue_counts_once_with_its_last_word_and_strangers_and_the_future_not_at_all() -> None:
    quotes = [
        quote("binance", "100"),
        quote("binance", "90", 30),
        quote("okx", "100"),
        quote("okx", "500", -1),
        quote("mtgox", "1"),
    ]
    found = index_price(quotes, RULE, NOW)
    assert found is not None
    assert found.price == 100
    assert {p.venue for p in found.constituents} == {"binance", "okx"}


prices = st.decimals(Decimal("0.000001"), Decimal(10**6), places=6)


@given(st.dictionaries(st.sampled_from(sorted(RULE.weights)), prices, min_size=2), st.randoms())
def test_price_equals_the_fractions_lies_within_the_band_and_knows_no_order(quotes, rng) -> None:  # type: ignore[no-untyped-def]
    given_quotes = [Quote(venue, price, NOW) for venue, price in quotes.items()]
    found = index_price(given_quotes, RULE, NOW)
    assert found is not None
    middle = median([Fraction(price) for price in quotes.values()])
    low, high = middle * Fraction(99, 100), middle * Fraction(101, 100)
    counted = {venue: min(max(Fraction(price), low), high) for venue, price in quotes.items()}
    exact = sum(counted[v] * RULE.weights[v] for v in counted) / sum(RULE.weights[v] for v in counted)
    assert abs(Fraction(found.price) - exact) <= Fraction(1, 2 * 10**18)
    assert low - Fraction(1, 10**18) <= Fraction(found.price) <= high + Fraction(1, 10**18)
    rng.shuffle(given_quotes)
    assert index_price(given_quotes, RULE, NOW) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"mark_sources": ()},
        {"mark_sources": ("last_trade", "last_trade")},
        {"mark_sources": ("Last Trade",)},
        {"mark_sources": ("index",)},
        {"mark_sources": ("index",), "index_venues": (("binance", 1),)},
        {"index_venues": (("binance", 0),)},
        {"index_venues": (("binance", 1), ("binance", 2))},
        {"index_venues": (("binance",),)},
        {"index_min_sources": 0},
        {"index_band_ppm": 1_000_000},
        {"index_max_age_s": 0},
    ],
)
def test_policy_whose_index_can_never_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"mark_sources|index_"):
        Policy("USDT", **changes)  # type: ignore[arg-type]


def test_policy_with_an_index_survives_its_text() -> None:
    policy = Policy("USDT", mark_sources=("index", "last_trade"), index_venues=(("binance", 5), ("kraken", 2)))
    assert Policy.parse(policy.as_dict()) == policy
    assert Policy.parse(policy.as_dict()).sha256 == policy.sha256
