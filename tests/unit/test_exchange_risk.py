"""What the risk checks refuse by name: reference prices, the band, limits of quantity and notional."""

from __future__ import annotations

from engine.exchange import commands as cmd
from engine.exchange.events import (
    OrderAccepted,
)
from tests.unit.test_exchange_orders import (
    BTC,
    BUY,
    LISTING,
    SECOND,
    SELL,
    USDT,
    Exchange,
    R,
    T,
    fills_of,
    reason_of,
)


def test_market_order_without_a_reference_is_rejected_by_name_and_a_stale_venue_price_is_none() -> None:
    exchange = Exchange(cmd.MarketLimits(slippage_ppm=10_000, reference_max_age_us=5 * SECOND))
    exchange.rest(1, SELL, 100, 9)
    assert reason_of(exchange.order(2, BUY, 0, 1, T.MARKET)) == R.NO_REFERENCE_PRICE
    assert exchange.send(cmd.SetReference(1, 100)) == []
    exchange.now += 5 * SECOND
    assert fills_of(exchange.order(2, BUY, 0, 1, T.MARKET)) == [(100, 1)]
    # From now on the last trade counts, however old.
    exchange.now += 10**9
    assert fills_of(exchange.order(2, BUY, 0, 1, T.MARKET)) == [(100, 1)]
    stale = Exchange(cmd.MarketLimits(slippage_ppm=10_000, reference_max_age_us=5 * SECOND))
    stale.rest(1, SELL, 100, 9)
    stale.send(cmd.SetReference(1, 100))
    stale.now += 5 * SECOND + 1
    assert reason_of(stale.order(2, BUY, 0, 1, T.MARKET)) == R.NO_REFERENCE_PRICE


def test_venue_price_that_is_not_newer_is_refused() -> None:
    exchange = Exchange()
    assert exchange.send(cmd.SetReference(1, 100, exchange.now)) == []
    assert reason_of(exchange.send(cmd.SetReference(1, 101, exchange.now))) == R.STALE_REFERENCE
    assert reason_of(exchange.send(cmd.SetReference(1, 0, exchange.now + 1))) == R.INVALID_PRICE
    assert reason_of(exchange.send(cmd.SetReference(9, 5))) == R.UNKNOWN_MARKET


def test_band_refuses_a_fat_finger_either_way_and_counts_from_the_last_trade_before_the_venue() -> None:
    exchange = Exchange(cmd.MarketLimits(band_ppm=100_000, reference_max_age_us=5 * SECOND))
    exchange.rest(1, SELL, 500, 1)  # no reference yet: nothing to measure from
    exchange.send(cmd.SetReference(1, 200))
    assert reason_of(exchange.order(2, BUY, 221, 1)) == R.PRICE_OUTSIDE_BAND
    assert reason_of(exchange.order(2, BUY, 179, 1)) == R.PRICE_OUTSIDE_BAND
    for price in (180, 220):
        exchange.rest(2, BUY, price, 1)
    exchange.order(1, SELL, 220, 1)  # a trade at 220
    assert reason_of(exchange.order(3, BUY, 197, 1)) == R.PRICE_OUTSIDE_BAND
    assert isinstance(exchange.order(3, BUY, 198, 1)[0], OrderAccepted)


def test_quantity_and_notional_limits_are_typed_and_change_only_with_a_higher_revision() -> None:
    limits = cmd.MarketLimits(2, 50, 3 * 500, 0, 0, 0, 1)
    exchange = Exchange(limits)
    assert reason_of(exchange.order(1, BUY, 300, 1)) == R.BELOW_MIN_QUANTITY
    assert reason_of(exchange.order(1, BUY, 300, 51)) == R.ABOVE_MAX_QUANTITY
    assert reason_of(exchange.order(1, BUY, 249, 2)) == R.BELOW_MIN_NOTIONAL
    assert isinstance(exchange.order(1, BUY, 250, 2)[0], OrderAccepted)
    assert reason_of(exchange.send(cmd.SetMarket(*LISTING, None, limits))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.SetMarket(*LISTING))) == R.INVALID_CONFIGURATION
    exchange.send(cmd.SetMarket(*LISTING, None, cmd.MarketLimits(revision=2)))
    assert isinstance(exchange.order(1, BUY, 1, 1)[0], OrderAccepted)
    moved = (1, "BTC-USDT", BTC, USDT, 10, 4)
    assert (
        reason_of(exchange.send(cmd.SetMarket(*moved, None, cmd.MarketLimits(revision=3)))) == R.INVALID_CONFIGURATION
    )
