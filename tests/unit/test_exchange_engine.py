"""What single commands do: the worked examples E1 to E3, and each reason for a refusal."""

from __future__ import annotations

import pytest

from engine.clock import CutOffRule, from_day_number, to_us
from engine.errors import GateError
from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import (
    AccountOpened,
    AccountTierSet,
    CutOff,
    Event,
    MarketListed,
    OrderAccepted,
    OrderCancelled,
    Rejected,
    RejectReason,
    Side,
    TierSet,
    Trade,
    Transfer,
    TransferKind,
)
from engine.exchange.sequencer import Sequencer
from engine.exchange.snapshot import engine_state_hash
from engine.sim.memory_sink import MemorySink

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
USDT, BTC = 1, 2
BUY, SELL, GTC, IOC = Side.BUY, Side.SELL, cmd.TimeInForce.GTC, cmd.TimeInForce.IOC
R = RejectReason


class Exchange:
    """A market BTC-USDT (1 lot = 10 base units, 1 tick x lot = 3 quote units) and accounts 1, 2 and 3."""

    def __init__(self, maker_ppm: int = 100, taker_ppm: int = 1000) -> None:
        self.engine = ExchangeEngine(FIRST_DAY)
        self.sequencer = Sequencer(self.engine, MemorySink(), cutoff_rule=RULE)
        self.genesis(cmd.SetAsset(USDT, "USDT", 6), cmd.SetAsset(BTC, "BTC", 8))
        self.genesis(cmd.SetMarket(1, "BTC-USDT", BTC, USDT, 10, 3), cmd.SetTier(maker_ppm, taker_ppm))
        self.genesis(*(cmd.OpenAccount(n, f"u-{n}") for n in (1, 2, 3)))
        self.references = 0

    def genesis(self, *commands: cmd.Command) -> list[Event]:
        return [event for one in commands for event in self.sequencer.submit(one, OPENS_US - 1)]

    def send(self, command: cmd.Command, at_us: int = OPENS_US + 10**6) -> list[Event]:
        events = [e for e in self.sequencer.submit(command, at_us) if not isinstance(e, CutOff)]
        self.engine.check_conservation()
        self.engine.check_locks()
        return events

    def fund(self, account: int, asset: int, units: int) -> None:
        self.references += 1
        (event,) = self.send(cmd.Deposit(account, asset, units, f"fund-{self.references}"))
        assert isinstance(event, Transfer)

    def order(self, account: int, side: Side, price: int, quantity: int, tif: cmd.TimeInForce = GTC) -> list[Event]:
        return self.send(cmd.NewOrder(account, 1, side, price, quantity, tif))

    def held(self, account: int, asset: int) -> tuple[int, int]:
        balance = self.engine.balance(account, asset)
        return balance.available, balance.locked


def reason_of(events: list[Event]) -> RejectReason:
    (event,) = events
    assert isinstance(event, Rejected)
    return event.reason


def test_bid_locks_quantity_times_limit_plus_taker_fee_and_one_unit_short_is_rejected_e1() -> None:
    exchange = Exchange()
    notional = 100 * 7 * 3
    lock = notional + 3  # 2.1 units of fee round up
    exchange.fund(1, USDT, lock - 1)
    assert reason_of(exchange.order(1, BUY, 100, 7)) == R.INSUFFICIENT_FUNDS
    assert exchange.held(1, USDT) == (lock - 1, 0)
    exchange.fund(1, USDT, 1)
    assert isinstance(exchange.order(1, BUY, 100, 7)[0], OrderAccepted)
    assert exchange.held(1, USDT) == (0, lock)


def test_ask_locks_its_base_and_one_unit_short_is_rejected() -> None:
    exchange = Exchange()
    exchange.fund(1, BTC, 69)
    assert reason_of(exchange.order(1, SELL, 100, 7)) == R.INSUFFICIENT_FUNDS
    exchange.fund(1, BTC, 1)
    exchange.order(1, SELL, 100, 7)
    assert exchange.held(1, BTC) == (0, 70)


def test_bid_filled_below_its_limit_gets_difference_and_unused_fee_back_at_once_e2() -> None:
    exchange = Exchange()
    exchange.fund(1, BTC, 400)
    exchange.fund(2, USDT, 1_000_000)
    exchange.order(1, SELL, 90, 40)
    events = exchange.order(2, BUY, 100, 100)
    (trade,) = (e for e in events if isinstance(e, Trade))
    assert (trade.price_ticks, trade.quantity_lots, trade.taker_side) == (90, 40, BUY)
    paid = 90 * 40 * 3
    assert (trade.taker_fee_units, trade.maker_fee_units) == (11, 2)  # 10.8 and 1.08 round up
    rest = 60 * 100 * 3
    assert exchange.held(2, USDT) == (1_000_000 - paid - 11 - (rest + 18), rest + 18)
    assert exchange.held(1, USDT) == (paid - 2, 0)
    assert exchange.held(2, BTC) == (400, 0)


def test_all_accounts_fees_and_flows_sum_to_zero_after_every_command_e3() -> None:
    exchange = Exchange(maker_ppm=-70, taker_ppm=900)
    exchange.fund(1, BTC, 10_000)
    exchange.fund(2, USDT, 10_000_000)
    exchange.order(1, SELL, 101, 333)
    exchange.order(2, BUY, 150, 111)
    exchange.order(2, BUY, 101, 500, IOC)
    exchange.send(cmd.Withdrawal(2, BTC, 17, "w1"))
    exchange.send(cmd.WithdrawalConfirmed(2, BTC, 17, "w1"))
    state = exchange.engine.state
    for asset in (USDT, BTC):
        users = sum(b.total for b in exchange.engine.balances() if b.asset == asset)
        assert users + state.fees[asset] == state.external[asset]
    assert state.external == {USDT: 10_000_000, BTC: 9_983}
    assert state.fees[USDT] > 0


def test_conservation_check_names_asset_and_difference() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 5)
    exchange.engine.state.balances[1, USDT][0] += 1
    with pytest.raises(GateError, match=r"asset 1 .* difference 1"):
        exchange.engine.check_conservation()


def test_negative_balance_is_found_even_where_the_sum_holds() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 5)
    row = exchange.engine.state.balances[1, USDT]
    row[0], row[2] = -1, 6
    with pytest.raises(GateError, match="no balance is negative"):
        exchange.engine.check_conservation()


def test_lock_without_an_order_is_found() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 5)
    row = exchange.engine.state.balances[1, USDT]
    row[0], row[1] = 4, 1
    with pytest.raises(GateError, match="locks 1, its orders differ"):
        exchange.engine.check_locks()


def test_bid_filled_in_many_parts_pays_the_fee_on_the_whole_rounded_up_once_and_leaves_no_dust() -> None:
    exchange = Exchange()
    exchange.fund(1, BTC, 1_000)
    exchange.fund(2, USDT, 301)
    exchange.order(2, BUY, 1, 100)  # notional 300, fee 0.3 -> 1
    fees = [e.maker_fee_units for _ in range(100) for e in exchange.order(1, SELL, 1, 1, IOC) if isinstance(e, Trade)]
    assert sum(fees) <= 1
    assert exchange.held(2, USDT)[1] == 0
    exchange.fund(3, USDT, 301)
    exchange.fund(1, BTC, 1_000)
    for _ in range(100):
        exchange.order(1, SELL, 1, 1)
    exchange.order(3, BUY, 1, 100, IOC)
    assert exchange.held(3, USDT) == (0, 0)
    assert exchange.held(3, BTC) == (1_000, 0)


def test_resting_bid_never_pays_more_than_the_rate_it_locked_at() -> None:
    exchange = Exchange(maker_ppm=100, taker_ppm=100)
    exchange.fund(1, BTC, 10_000)
    exchange.fund(2, USDT, 300_030)
    exchange.order(2, BUY, 100, 1000)
    exchange.send(cmd.SetTier(500, 1000))
    (trade,) = (e for e in exchange.order(1, SELL, 100, 1000) if isinstance(e, Trade))
    assert (trade.maker_rate_ppm, trade.maker_fee_units) == (100, 30)
    assert (trade.taker_rate_ppm, trade.taker_fee_units) == (1000, 300)
    assert exchange.held(2, USDT) == (0, 0)


def test_taker_never_trades_with_its_own_order_and_its_rest_is_cancelled() -> None:
    exchange = Exchange()
    exchange.fund(1, BTC, 1_000)
    exchange.fund(1, USDT, 1_000_000)
    exchange.fund(2, BTC, 1_000)
    exchange.order(2, SELL, 100, 5)
    exchange.order(1, SELL, 101, 5)
    events = exchange.order(1, BUY, 102, 20)
    assert [(e.maker_account, e.quantity_lots) for e in events if isinstance(e, Trade)] == [(2, 5)]
    assert isinstance(events[-1], OrderCancelled)
    assert events[-1].quantity_lots == 15
    assert exchange.held(1, USDT)[1] == 0
    assert [o.account for _, o in exchange.engine.resting()] == [1]


def test_ioc_rest_is_cancelled_and_gtc_rest_rests() -> None:
    exchange = Exchange()
    exchange.fund(1, BTC, 1_000)
    exchange.fund(2, USDT, 1_000_000)
    exchange.order(1, SELL, 100, 5)
    assert isinstance(exchange.order(2, BUY, 100, 8, IOC)[-1], OrderCancelled)
    assert exchange.held(2, USDT)[1] == 0
    exchange.order(2, BUY, 100, 8)
    assert [o.quantity for _, o in exchange.engine.resting()] == [8]


def test_fills_go_by_price_then_time_at_the_makers_price() -> None:
    exchange = Exchange()
    exchange.fund(1, BTC, 1_000)
    exchange.fund(3, BTC, 1_000)
    exchange.fund(2, USDT, 1_000_000)
    exchange.order(1, SELL, 101, 5)
    exchange.order(3, SELL, 100, 5)
    exchange.order(1, SELL, 100, 5)
    trades = [e for e in exchange.order(2, BUY, 105, 12) if isinstance(e, Trade)]
    assert [(t.price_ticks, t.maker_account, t.quantity_lots) for t in trades] == [
        (100, 3, 5),
        (100, 1, 5),
        (101, 1, 2),
    ]
    assert [t.fill_index for t in trades] == [0, 1, 2]
    assert [t.trade_id for t in trades] == [1, 2, 3]


def test_cancel_releases_the_whole_lock_and_only_the_owner_may() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 5_000)
    (accepted,) = exchange.order(1, BUY, 100, 7)
    assert isinstance(accepted, OrderAccepted)
    assert reason_of(exchange.send(cmd.CancelOrder(2, accepted.order_id))) == R.NOT_THE_OWNER
    (cancelled,) = exchange.send(cmd.CancelOrder(1, accepted.order_id))
    assert cancelled == OrderCancelled(cancelled.engine_seq, accepted.order_id, 1, 1, 7)
    assert exchange.held(1, USDT) == (5_000, 0)
    assert reason_of(exchange.send(cmd.CancelOrder(1, accepted.order_id))) == R.UNKNOWN_ORDER
    assert reason_of(exchange.send(cmd.CancelOrder(9, accepted.order_id))) == R.UNKNOWN_ACCOUNT


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (cmd.NewOrder(9, 1, BUY, 1, 1, GTC), R.UNKNOWN_ACCOUNT),
        (cmd.NewOrder(1, 9, BUY, 1, 1, GTC), R.UNKNOWN_MARKET),
        (cmd.NewOrder(1, 1, BUY, 0, 1, GTC), R.INVALID_PRICE),
        (cmd.NewOrder(1, 1, BUY, -5, 1, GTC), R.INVALID_PRICE),
        (cmd.NewOrder(1, 1, BUY, 1, 0, GTC), R.INVALID_QUANTITY),
        (cmd.NewOrder(1, 1, SELL, 1, -1, IOC), R.INVALID_QUANTITY),
        (cmd.NewOrder(1, 1, BUY, 2**63 - 1, 2**63 - 1, GTC), R.TOO_LARGE),
        (cmd.NewOrder(1, 1, SELL, 1, 1, GTC), R.INSUFFICIENT_FUNDS),
        (cmd.Deposit(9, USDT, 1, "x"), R.UNKNOWN_ACCOUNT),
        (cmd.Deposit(1, 9, 1, "x"), R.UNKNOWN_ASSET),
        (cmd.Deposit(1, USDT, 0, "x"), R.INVALID_QUANTITY),
        (cmd.Deposit(1, USDT, 2**127 - 1, "x"), R.TOO_LARGE),
        (cmd.Withdrawal(1, USDT, 101, "x"), R.INSUFFICIENT_FUNDS),
        (cmd.WithdrawalConfirmed(1, USDT, 1, "x"), R.UNKNOWN_WITHDRAWAL),
        (cmd.OpeningBalance(1, USDT, 1, "x"), R.INVALID_CUT_OFF),
        (cmd.SetAsset(3, "BTC", 8), R.INVALID_CONFIGURATION),
        (cmd.SetAsset(0, "ETH", 8), R.INVALID_CONFIGURATION),
        (cmd.SetAsset(3, "ETH", 19), R.INVALID_CONFIGURATION),
        (cmd.SetMarket(2, "X-Y", BTC, 9, 1, 1), R.UNKNOWN_ASSET),
        (cmd.SetMarket(2, "X-Y", BTC, BTC, 1, 1), R.INVALID_CONFIGURATION),
        (cmd.SetMarket(2, "X-Y", BTC, USDT, 1, 0), R.INVALID_CONFIGURATION),
        (cmd.SetMarket(1, "X-Y", BTC, USDT, 1, 1), R.INVALID_CONFIGURATION),
        (cmd.OpenAccount(1, "new"), R.INVALID_CONFIGURATION),
        (cmd.OpenAccount(4, "u-1"), R.INVALID_CONFIGURATION),
        (cmd.SetTier(-2, 1), R.INVALID_CONFIGURATION),
        (cmd.SetTier(2, 1), R.INVALID_CONFIGURATION),
        (cmd.SetTier(0, 1_000_001), R.INVALID_CONFIGURATION),
    ],
)
def test_wrong_command_is_rejected_by_name_and_changes_nothing(command: cmd.Command, reason: RejectReason) -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 100)
    before = engine_state_hash(exchange.engine)
    assert reason_of(exchange.send(command)) == reason
    assert engine_state_hash(exchange.engine) == before


def test_client_reference_of_an_order_is_unique_per_account() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 10_000)
    exchange.fund(2, USDT, 10_000)
    for account, outcome in ((1, OrderAccepted), (1, Rejected), (2, OrderAccepted)):
        assert isinstance(exchange.send(cmd.NewOrder(account, 1, BUY, 5, 5, GTC, "mine"))[0], outcome)


def test_genesis_takes_configuration_and_opening_balances_only() -> None:
    exchange = Exchange()
    (opening,) = exchange.genesis(cmd.OpeningBalance(1, USDT, 77, "open"))
    assert isinstance(opening, Transfer)
    assert (opening.kind, opening.close_day) == (TransferKind.OPENING, FIRST_DAY - 1)
    for command in (
        cmd.Deposit(1, USDT, 1, "d"),
        cmd.Withdrawal(1, USDT, 1, "w"),
        cmd.NewOrder(1, 1, BUY, 1, 1, GTC),
        cmd.CancelOrder(1, 1),
    ):
        assert reason_of(exchange.genesis(command)) == R.INVALID_CUT_OFF
    assert isinstance(exchange.genesis(cmd.OpenAccount(5, "late"))[0], AccountOpened)
    assert isinstance(exchange.genesis(cmd.SetMarket(2, "B2", BTC, USDT, 10**20, 1))[0], MarketListed)


def test_order_reference_is_taken_for_two_days_and_while_its_order_rests_and_a_transfers_for_ever() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 10_000)
    day = 86_400 * 10**6

    def send(number: int, command: cmd.Command) -> RejectReason | None:
        event = exchange.send(command, OPENS_US + number * day + 2 * 10**6)[0]
        return event.reason if isinstance(event, Rejected) else None

    resting, gone = cmd.NewOrder(1, 1, BUY, 5, 5, GTC, "rests"), cmd.NewOrder(1, 1, BUY, 5, 5, IOC, "gone")
    found = [[send(number, resting), send(number, gone)] for number in range(4)]
    assert found == [
        [None, None],
        [R.DUPLICATE_REFERENCE, R.DUPLICATE_REFERENCE],
        [R.DUPLICATE_REFERENCE, None],
        [R.DUPLICATE_REFERENCE, R.DUPLICATE_REFERENCE],
    ]
    other = cmd.NewOrder(1, 1, BUY, 6, 5, GTC, "rests")
    assert send(4, other) == R.REFERENCE_CONFLICT
    assert send(4, cmd.CancelAll(1)) is None
    assert [send(4, other), send(4, resting)] == [None, R.REFERENCE_CONFLICT]
    assert send(9, cmd.Deposit(1, USDT, 10_000, "fund-1")) == R.DUPLICATE_REFERENCE


def test_changes_of_tiers_are_events_that_say_from_which_day_on() -> None:
    exchange = Exchange()
    (rates,) = exchange.send(cmd.SetTier(10, 20, None, 3))
    (moved,) = exchange.send(cmd.SetAccountTier(2, 3, "vip"))
    assert isinstance(rates, TierSet)
    assert (rates.close_day, rates.tier, rates.maker_rate_ppm, rates.taker_rate_ppm) == (FIRST_DAY, 3, 10, 20)
    assert isinstance(moved, AccountTierSet)
    assert (moved.engine_seq, moved.account, moved.tier) == (rates.engine_seq + 1, 2, 3)
