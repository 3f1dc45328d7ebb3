"""Events and amounts as quick forms make them: the same as the plain ones."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import from_us, iso_of_us, iso_us
from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event, Side, Trade
from engine.exchange.sequencer import Sequencer
from engine.money import MAX_UNITS, to_units
from engine.sim.memory_sink import MemorySink
from tests.property.exchange_commands import FIRST_DAY, OPENS_US, RULE


def test_events_that_are_tuples_differ_in_length_so_that_no_two_kinds_are_equal() -> None:
    lengths = [len(kind._fields) for kind in get_args(Event) if issubclass(kind, tuple)]
    assert len(lengths) == len(set(lengths)) >= 4


def test_each_field_of_a_trade_is_what_its_name_says() -> None:
    sequencer = Sequencer(ExchangeEngine(FIRST_DAY), MemorySink(), cutoff_rule=RULE)
    for command in (
        cmd.SetAsset(1, "USDT", 6),
        cmd.SetAsset(2, "BTC", 8),
        cmd.SetMarket(7, "BTC-USDT", 2, 1, 1000, 3),
        cmd.SetTier(2_000, 5_000),
        cmd.OpenAccount(11, "maker"),
        cmd.OpenAccount(12, "taker"),
        cmd.OpeningBalance(11, 2, 10**9, "o-1"),
        cmd.OpeningBalance(12, 1, 10**9, "o-2"),
    ):
        sequencer.submit(command, OPENS_US - 1)
    asks = [sequencer.submit(cmd.NewOrder(11, 7, Side.SELL, p, 5, cmd.TimeInForce.GTC), OPENS_US) for p in (100, 101)]
    assert all(asks)
    last = sequencer.engine.last_seq
    events = sequencer.submit(
        cmd.NewOrder(12, 7, Side.BUY, 102, 8, cmd.TimeInForce.IOC, effective_us=OPENS_US - 7), OPENS_US + 4
    )
    second = events[2]
    assert second == Trade(
        trade_id=2,
        engine_seq=last + 1,
        fill_index=1,
        close_day=FIRST_DAY,
        sequenced_us=OPENS_US + 4,
        effective_us=OPENS_US - 7,
        market=7,
        price_ticks=101,
        quantity_lots=3,
        base_units=3 * 1000,
        quote_units=101 * 3 * 3,
        taker_side=Side.BUY,
        maker_account=11,
        taker_account=12,
        maker_order_id=last,
        taker_order_id=last + 1,
        maker_fee_units=2,
        taker_fee_units=5,
        maker_rate_ppm=2_000,
        taker_rate_ppm=5_000,
    )
    assert isinstance(second, Trade)
    assert isinstance(second.taker_side, Side)


@given(st.integers(-(10**15), 10**17))
def test_text_of_a_time_is_that_of_its_instant(us: int) -> None:
    assert iso_of_us(us) == iso_us(from_us(us))


@given(
    st.integers(-(10**40), 10**40),
    st.integers(-45, 45),
    st.integers(0, 18),
)
def test_units_of_an_amount_are_exact_or_refused(digits: int, exponent: int, decimals: int) -> None:
    amount = Decimal(digits).scaleb(exponent) if abs(digits) < 10**28 else Decimal(f"{digits}E{exponent}")
    power = exponent + decimals
    exact = digits * 10**power if power >= 0 else digits // 10**-power
    if (power < 0 and digits % 10**-power) or abs(exact) > MAX_UNITS:
        with pytest.raises(InputError):
            to_units(amount, decimals, record="x")
    else:
        assert to_units(amount, decimals, record="x") == exact
