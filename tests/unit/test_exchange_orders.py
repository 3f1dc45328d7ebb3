"""What each kind of order does, and what stakes, rewards and adjustments move."""

from __future__ import annotations

import pytest

from engine.clock import CutOffRule, from_day_number, to_us
from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import (
    CutOff,
    Event,
    OrderAccepted,
    OrderAmended,
    OrderCancelled,
    OrderReduced,
    Rejected,
    RejectReason,
    Side,
    Trade,
    Transfer,
    TransferKind,
)
from engine.exchange.postings import journal_of
from engine.exchange.sequencer import Sequencer
from engine.exchange.snapshot import engine_state_hash
from engine.ledger.journal import check_balanced
from engine.sim.memory_sink import MemorySink

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
SECOND = 10**6
USDT, BTC = 1, 2
BUY, SELL = Side.BUY, Side.SELL
T = cmd.TimeInForce
R = RejectReason
LISTING = (1, "BTC-USDT", BTC, USDT, 10, 3)


class Exchange:
    """A market BTC-USDT (1 lot = 10 base units, 1 tick x lot = 3 quote units); 1 to 3 hold both, 4 nothing."""

    def __init__(self, limits: cmd.MarketLimits = cmd.NO_LIMITS) -> None:
        self.engine = ExchangeEngine(FIRST_DAY)
        self.sequencer = Sequencer(self.engine, MemorySink(), cutoff_rule=RULE)
        self.now = OPENS_US - 1
        self.number = 0
        self.send(cmd.SetAsset(USDT, "USDT", 6))
        self.send(cmd.SetAsset(BTC, "BTC", 8))
        self.send(cmd.SetMarket(*LISTING, None, limits))
        self.send(cmd.SetTier(100, 1000))
        for account in (1, 2, 3, 4):
            self.send(cmd.OpenAccount(account, f"u-{account}"))
        self.now = OPENS_US
        for account in (1, 2, 3):
            self.send(cmd.Deposit(account, USDT, 10**7, f"u{account}"))
            self.send(cmd.Deposit(account, BTC, 10**5, f"b{account}"))

    def send(self, command: cmd.Command, wait_us: int = 0) -> list[Event]:
        self.now += wait_us
        events = [e for e in self.sequencer.submit(command, self.now) if not isinstance(e, CutOff)]
        self.engine.check_conservation()
        self.engine.check_locks()
        return events

    def order(self, account: int, side: Side, price: int, quantity: int, tif: T = T.GTC) -> list[Event]:
        return self.send(cmd.NewOrder(account, 1, side, price, quantity, tif))

    def rest(self, account: int, side: Side, price: int, quantity: int) -> int:
        accepted = self.order(account, side, price, quantity)[0]
        assert isinstance(accepted, OrderAccepted)
        return accepted.order_id

    def book(self) -> list[tuple[int, int, int]]:
        return [(order.order_id, order.price, order.quantity) for _, order in self.engine.resting()]

    def key(self) -> str:
        self.number += 1
        return f"key-{self.number}"


def reason_of(events: list[Event]) -> RejectReason:
    (event,) = events
    assert isinstance(event, Rejected), event
    return event.reason


def fills_of(events: list[Event]) -> list[tuple[int, int]]:
    return [(e.price_ticks, e.quantity_lots) for e in events if isinstance(e, Trade)]


def test_fok_is_filled_whole_or_changes_nothing() -> None:
    exchange = Exchange()
    exchange.rest(1, SELL, 100, 5)
    exchange.rest(2, SELL, 102, 5)
    before = engine_state_hash(exchange.engine)
    assert reason_of(exchange.order(3, BUY, 101, 6, T.FOK)) == R.NOT_FILLABLE
    assert reason_of(exchange.order(3, BUY, 102, 11, T.FOK)) == R.NOT_FILLABLE
    assert engine_state_hash(exchange.engine) == before
    assert fills_of(exchange.order(3, BUY, 102, 10, T.FOK)) == [(100, 5), (102, 5)]
    assert exchange.book() == []


def test_fok_that_would_meet_its_own_order_first_is_refused_and_after_enough_is_filled() -> None:
    exchange = Exchange()
    exchange.rest(1, SELL, 100, 5)
    mine = exchange.rest(3, SELL, 101, 5)
    assert reason_of(exchange.order(3, BUY, 101, 6, T.FOK)) == R.NOT_FILLABLE
    assert fills_of(exchange.order(3, BUY, 101, 5, T.FOK)) == [(100, 5)]
    assert exchange.book() == [(mine, 101, 5)]


def test_post_only_rests_or_is_refused_and_never_takes() -> None:
    exchange = Exchange()
    exchange.rest(1, SELL, 100, 5)
    assert reason_of(exchange.order(2, BUY, 100, 1, T.POST_ONLY)) == R.WOULD_TAKE
    assert [type(e) for e in exchange.order(2, BUY, 99, 1, T.POST_ONLY)] == [OrderAccepted]
    order_id = exchange.book()[0][0]
    assert reason_of(exchange.send(cmd.AmendOrder(2, order_id, 100, 1))) == R.WOULD_TAKE
    assert isinstance(exchange.send(cmd.AmendOrder(2, order_id, 98, 1))[0], OrderAmended)
    assert reason_of(exchange.send(cmd.AmendOrder(2, order_id, 100, 1))) == R.WOULD_TAKE


def test_market_order_goes_as_far_as_its_slippage_and_its_rest_is_cancelled() -> None:
    exchange = Exchange(cmd.MarketLimits(slippage_ppm=20_000))
    exchange.rest(1, SELL, 100, 1)
    exchange.order(2, BUY, 100, 1)  # a last trade at 100
    for price in (101, 102, 103):
        exchange.rest(1, SELL, price, 2)
    events = exchange.order(2, BUY, 0, 10, T.MARKET)
    assert fills_of(events) == [(101, 2), (102, 2)]
    assert isinstance(events[-1], OrderCancelled)
    assert events[-1].quantity_lots == 6
    exchange.rest(3, BUY, 101, 1)
    exchange.rest(3, BUY, 99, 1)
    # The reference is now 102: a sale goes down to 100 (99.96 in ticks), or to the worst price that it names.
    assert fills_of(exchange.order(2, SELL, 0, 10, T.MARKET)) == [(101, 1)]
    exchange.rest(3, BUY, 100, 1)
    assert fills_of(exchange.order(2, SELL, 101, 10, T.MARKET)) == []


def test_reduce_keeps_the_place_and_amend_loses_it() -> None:
    exchange = Exchange()
    first, second = exchange.rest(1, SELL, 100, 5), exchange.rest(2, SELL, 100, 5)
    (reduced,) = exchange.send(cmd.ReduceOrder(1, first, 2))
    assert reduced == OrderReduced(reduced.engine_seq, first, 1, 1, 2, 3)
    assert exchange.book() == [(first, 100, 3), (second, 100, 5)]
    assert exchange.engine.balance(1, BTC).locked == 30
    exchange.send(cmd.AmendOrder(1, first, 100, 3))
    assert exchange.book() == [(second, 100, 5), (first, 100, 3)]
    (gone,) = exchange.send(cmd.ReduceOrder(2, second, 99))
    assert isinstance(gone, OrderCancelled)
    assert reason_of(exchange.send(cmd.ReduceOrder(1, first, 0))) == R.INVALID_QUANTITY
    assert reason_of(exchange.send(cmd.ReduceOrder(2, first, 1))) == R.NOT_THE_OWNER


def test_amend_that_is_refused_leaves_the_order_where_it_stood() -> None:
    exchange = Exchange()
    first, second = exchange.rest(1, BUY, 100, 5), exchange.rest(2, BUY, 100, 5)
    before = engine_state_hash(exchange.engine)
    assert reason_of(exchange.send(cmd.AmendOrder(1, first, 100, 10**6))) == R.INSUFFICIENT_FUNDS
    assert reason_of(exchange.send(cmd.AmendOrder(1, first, 0, 5))) == R.INVALID_PRICE
    assert reason_of(exchange.send(cmd.AmendOrder(2, first, 100, 5))) == R.NOT_THE_OWNER
    assert reason_of(exchange.send(cmd.AmendOrder(1, second + 99, 100, 5))) == R.UNKNOWN_ORDER
    assert engine_state_hash(exchange.engine) == before


def test_amend_may_spend_what_its_own_lock_frees_and_matches_under_its_id() -> None:
    exchange = Exchange()
    lots = 10**7 // 3004
    order_id = exchange.rest(1, BUY, 1000, lots)
    exchange.rest(2, SELL, 1001, 7)
    events = exchange.send(cmd.AmendOrder(1, order_id, 1001, lots - 5))
    assert isinstance(events[0], OrderAmended)
    assert fills_of(events) == [(1001, 7)]
    assert [e.taker_order_id for e in events if isinstance(e, Trade)] == [order_id]
    assert exchange.book() == [(order_id, 1001, lots - 12)]


def test_amend_into_an_order_of_its_own_account_cancels_the_rest() -> None:
    exchange = Exchange()
    mine = exchange.rest(1, SELL, 100, 5)
    order_id = exchange.rest(1, BUY, 99, 5)
    events = exchange.send(cmd.AmendOrder(1, order_id, 100, 5))
    assert isinstance(events[-1], OrderCancelled)
    assert exchange.book() == [(mine, 100, 5)]


def test_cancel_all_takes_one_users_orders_of_one_market_or_all_and_nobody_elses() -> None:
    exchange = Exchange()
    exchange.send(cmd.SetMarket(2, "B2", BTC, USDT, 10, 3))
    mine = [exchange.rest(1, BUY, 10 + n, 1) for n in range(3)]
    other = exchange.rest(2, BUY, 10, 1)
    exchange.send(cmd.NewOrder(1, 2, BUY, 10, 1, T.GTC))
    events = exchange.send(cmd.CancelAll(1, 1))
    assert [e.order_id for e in events if isinstance(e, OrderCancelled)] == mine
    assert len(exchange.send(cmd.CancelAll(1))) == 1
    assert exchange.send(cmd.CancelAll(1)) == []
    assert exchange.book() == [(other, 10, 1)]
    assert reason_of(exchange.send(cmd.CancelAll(9))) == R.UNKNOWN_ACCOUNT
    assert reason_of(exchange.send(cmd.CancelAll(1, 7))) == R.UNKNOWN_MARKET


def test_replayed_client_order_id_is_told_from_one_with_another_payload() -> None:
    exchange = Exchange()
    order = cmd.NewOrder(1, 1, BUY, 10, 5, T.GTC, "mine")
    exchange.send(order)
    assert reason_of(exchange.send(order)) == R.DUPLICATE_REFERENCE
    for other in (
        cmd.NewOrder(1, 1, BUY, 11, 5, T.GTC, "mine"),
        cmd.NewOrder(1, 1, BUY, 10, 6, T.GTC, "mine"),
        cmd.NewOrder(1, 1, SELL, 10, 5, T.GTC, "mine"),
        cmd.NewOrder(1, 1, BUY, 10, 5, T.IOC, "mine"),
        cmd.NewOrder(1, 1, BUY, 10, 5, T.GTC, "mine", None, 12),
    ):
        assert reason_of(exchange.send(other)) == R.REFERENCE_CONFLICT


def test_account_that_may_not_trade_can_still_cancel_and_its_holds_keep_withdrawals_back() -> None:
    exchange = Exchange()
    order_id = exchange.rest(1, BUY, 10, 5)
    suspended = cmd.SetAccount(1, cmd.AccountState.SUSPENDED, False, False, cmd.Hold.NONE, "s1")
    exchange.send(suspended)
    assert reason_of(exchange.order(1, BUY, 10, 5)) == R.ACCOUNT_MAY_NOT_TRADE
    assert reason_of(exchange.send(cmd.AmendOrder(1, order_id, 9, 5))) == R.ACCOUNT_MAY_NOT_TRADE
    assert reason_of(exchange.send(cmd.Withdrawal(1, USDT, 5, "w"))) == R.ACCOUNT_MAY_NOT_WITHDRAW
    assert isinstance(exchange.send(cmd.CancelOrder(1, order_id))[0], OrderCancelled)
    held = cmd.SetAccount(1, cmd.AccountState.ACTIVE, True, True, cmd.Hold.BREAK, "s2")
    exchange.send(held)
    assert isinstance(exchange.order(1, BUY, 10, 5)[0], OrderAccepted)
    assert reason_of(exchange.send(cmd.Withdrawal(1, USDT, 5, "w"))) == R.ACCOUNT_ON_HOLD
    # A retry of the suspension, late: it changes nothing.
    assert reason_of(exchange.send(suspended)) == R.DUPLICATE_REFERENCE
    conflict = cmd.SetAccount(1, cmd.AccountState.BANNED, False, False, cmd.Hold.NONE, "s2")
    assert reason_of(exchange.send(conflict)) == R.REFERENCE_CONFLICT
    exchange.send(cmd.SetAccount(1, cmd.AccountState.BANNED, False, False, cmd.Hold.NONE, "s3"))
    before = exchange.engine.balance(1, USDT)
    late = exchange.send(cmd.Deposit(1, USDT, 5, "late"))[0]
    assert isinstance(late, Transfer)
    assert late.kind == TransferKind.DEPOSIT_UNALLOCATED
    assert exchange.engine.balance(1, USDT) == before
    exchange.engine.check_conservation()
    assert reason_of(exchange.send(cmd.Deposit(1, USDT, 5, "late"))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.Deposit(1, USDT, 6, "late"))) == R.REFERENCE_CONFLICT
    back = exchange.send(cmd.DepositReversed(1, USDT, 5, "late"))[0]
    assert isinstance(back, Transfer)
    assert back.kind == TransferKind.UNALLOCATED_REVERSED
    assert reason_of(exchange.send(cmd.DepositReversed(1, USDT, 5, "never"))) == R.UNKNOWN_DEPOSIT
    assert reason_of(exchange.send(cmd.Reward(1, USDT, 5, "late"))) == R.ACCOUNT_MAY_NOT_RECEIVE
    wrong = cmd.SetAccount(2, cmd.AccountState.SUSPENDED, True, False, cmd.Hold.NONE, "s4")
    assert reason_of(exchange.send(wrong)) == R.INVALID_CONFIGURATION


def test_rates_are_those_of_each_accounts_tier_from_its_sequence_on_and_trades_carry_them() -> None:
    exchange = Exchange()
    exchange.send(cmd.SetTier(-50, 400, None, 3))
    assert reason_of(exchange.send(cmd.SetTier(-401, 900, None, 5))) == R.INVALID_CONFIGURATION
    exchange.rest(1, SELL, 1000, 10)
    (before,) = (e for e in exchange.order(2, BUY, 1000, 5) if isinstance(e, Trade))
    assert (before.maker_rate_ppm, before.taker_rate_ppm) == (100, 1000)
    exchange.send(cmd.SetAccountTier(1, 3, "t1"))
    exchange.send(cmd.SetAccountTier(2, 3, "t2"))
    (after,) = (e for e in exchange.order(2, BUY, 1000, 5) if isinstance(e, Trade))
    assert (after.maker_rate_ppm, after.taker_rate_ppm) == (-50, 400)
    assert (after.maker_fee_units, after.taker_fee_units) == (0, 6)  # a rebate of 0.75 rounds down, 6 is exact
    assert reason_of(exchange.send(cmd.SetAccountTier(1, 3, "t1"))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.SetAccountTier(1, 0, "t1"))) == R.REFERENCE_CONFLICT
    assert reason_of(exchange.send(cmd.SetAccountTier(1, 9, "t9"))) == R.INVALID_CONFIGURATION


def test_stake_reward_and_adjust_move_what_they_say_and_settle_as_balanced_journals() -> None:
    exchange = Exchange()
    legs: dict[tuple[str, str], int] = {}
    for command in (
        cmd.Stake(1, USDT, 600, "k"),
        cmd.Unstake(1, USDT, 100, "k"),
        cmd.Reward(1, USDT, 70, "k"),
        cmd.Adjust(1, USDT, -30, "k"),
        cmd.Adjust(1, USDT, 5, "adj/goodwill/1"),
        cmd.Adjust(1, USDT, 3, "adj/insurance/2"),
        cmd.Adjust(1, USDT, 4, "adj/unallocated_deposit/3"),
    ):
        (event,) = exchange.send(command)
        assert isinstance(event, Transfer)
        journal = journal_of(event, exchange.engine.registry)
        assert journal is not None
        check_balanced(journal)
        assert journal.kind == type(command).__name__.lower()
        assert journal.reference_type == ("admin_adjustment" if journal.kind == "adjust" else journal.kind)
        for leg in journal.legs:
            legs[leg.account, leg.asset] = legs.get((leg.account, leg.asset), 0) + leg.units
        assert reason_of(exchange.send(command)) == R.DUPLICATE_REFERENCE
    assert legs == {
        ("u-1", "USDT"): -600 + 100 + 70 - 30 + 5 + 3 + 4,
        ("u-1:staked", "USDT"): 500,
        ("rewards_payable", "USDT"): -70,
        ("adjustment_expense", "USDT"): 25,
        ("insurance_fund", "USDT"): -3,
        ("deposits_unallocated", "USDT"): -4,
    }
    balance = exchange.engine.balance(1, USDT)
    assert (balance.available, balance.staked) == (10**7 - 448, 500)
    assert exchange.engine.adjustments(USDT) == 52
    assert reason_of(exchange.send(cmd.Unstake(1, USDT, 501, "m"))) == R.INSUFFICIENT_FUNDS
    assert reason_of(exchange.send(cmd.Adjust(4, USDT, -1, "n"))) == R.INSUFFICIENT_FUNDS
    assert reason_of(exchange.send(cmd.Adjust(4, USDT, 0, "n"))) == R.INVALID_QUANTITY


def test_reward_can_be_withdrawn_although_less_came_in_from_outside() -> None:
    exchange = Exchange()
    exchange.send(cmd.SetAsset(5, "NEW", 0))
    exchange.send(cmd.Reward(1, 5, 9, "r"))
    exchange.send(cmd.Withdrawal(1, 5, 9, "w"))
    exchange.send(cmd.WithdrawalConfirmed(1, 5, 9, "w"))
    assert exchange.engine.external_flows(5) == -9
    from engine.exchange import snapshot

    packed = snapshot.pack(exchange.engine)
    assert snapshot.pack(snapshot._unpack(packed)) == packed


def test_bid_with_a_reserve_locks_at_it_and_moves_up_to_it() -> None:
    exchange = Exchange()
    (accepted,) = exchange.send(cmd.NewOrder(1, 1, BUY, 100, 10, T.GTC, "", None, 110))
    assert isinstance(accepted, OrderAccepted)
    locked = exchange.engine.balance(1, USDT).locked
    assert locked == 110 * 10 * 3 + 4  # the fee of 3.3 rounds up
    exchange.send(cmd.AmendOrder(1, accepted.order_id, 110, 10))
    assert exchange.engine.balance(1, USDT).locked == locked
    assert reason_of(exchange.send(cmd.AmendOrder(1, accepted.order_id, 111, 10))) == R.PRICE_ABOVE_RESERVE
    assert reason_of(exchange.send(cmd.NewOrder(1, 1, BUY, 100, 10, T.GTC, "", None, 99))) == R.INVALID_PRICE
    exchange.rest(2, SELL, 90, 4)
    assert exchange.engine.balance(1, USDT).locked == 110 * 6 * 3 + 2


@pytest.mark.parametrize(
    "command",
    [
        cmd.NewOrder(1, 1, BUY, 1, 1, 9),  # type: ignore[arg-type]
        cmd.NewOrder(1, 1, BUY, 1, 1, T.GTC, "", None, -1),
        cmd.SetAccount(1, 9, True, True, cmd.Hold.NONE, "k"),  # type: ignore[arg-type]
        cmd.SetAccount(1, cmd.AccountState.ACTIVE, True, True, cmd.Hold.NONE, ""),
        cmd.SetAsset(9, "A.", 6),
        cmd.SetAsset(9, "A\n", 6),
        cmd.SetMarket(9, "A..B", 1, 2, 1, 1),
        cmd.SetMarket(9, "M" * 33, 1, 2, 1, 1),
        cmd.SetMarket(*LISTING, None, cmd.MarketLimits(min_notional_units=2**127)),
        cmd.SetMarket(*LISTING, None, cmd.MarketLimits(band_ppm=-1)),
        cmd.Adjust(1, 1, 2**127, "k"),
        cmd.ReduceOrder(1, 1, 2**63),
        cmd.Stake(1, 1, -5, "k"),
    ],
)
def test_what_does_not_fit_a_record_is_refused_before_it_is_sequenced(command: cmd.Command) -> None:
    exchange = Exchange()
    seq = exchange.engine.last_seq
    with pytest.raises(InputError):
        exchange.send(command)
    assert exchange.engine.last_seq == seq
