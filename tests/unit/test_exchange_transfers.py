"""Deposits and withdrawals: each reference once, in transit, confirmed, returned, taken back by their chain."""

from __future__ import annotations

from engine.exchange import commands as cmd
from engine.exchange.events import (
    AccountChanged,
    Transfer,
    TransferKind,
)
from engine.exchange.snapshot import engine_state_hash
from tests.unit.test_exchange_engine import (
    BTC,
    USDT,
    Exchange,
    R,
    reason_of,
)


def test_same_reference_has_one_effect_whatever_the_payload() -> None:
    exchange = Exchange()
    assert isinstance(exchange.send(cmd.Deposit(1, USDT, 50, "d"))[0], Transfer)
    assert reason_of(exchange.send(cmd.Deposit(1, USDT, 50, "d"))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.Deposit(2, USDT, 70, "d"))) == R.REFERENCE_CONFLICT
    assert exchange.held(1, USDT) == (50, 0)
    assert exchange.held(2, USDT) == (0, 0)
    # A withdrawal may carry a deposit's reference: they are different things.
    assert isinstance(exchange.send(cmd.Withdrawal(1, USDT, 50, "d"))[0], Transfer)


def test_refused_transfer_does_not_use_up_its_reference() -> None:
    exchange = Exchange()
    assert reason_of(exchange.send(cmd.Withdrawal(1, USDT, 50, "w"))) == R.INSUFFICIENT_FUNDS
    exchange.fund(1, USDT, 50)
    assert isinstance(exchange.send(cmd.Withdrawal(1, USDT, 50, "w"))[0], Transfer)


def test_withdrawal_waits_in_transit_and_is_confirmed_or_returned_once() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 100)
    exchange.send(cmd.Withdrawal(1, USDT, 60, "a"))
    exchange.send(cmd.Withdrawal(1, USDT, 40, "b"))
    assert exchange.engine.balance(1, USDT).in_transit == 100
    assert reason_of(exchange.send(cmd.WithdrawalConfirmed(1, USDT, 59, "a"))) == R.UNKNOWN_WITHDRAWAL
    (done,) = exchange.send(cmd.WithdrawalConfirmed(1, USDT, 60, "a"))
    assert isinstance(done, Transfer)
    assert done.kind == TransferKind.WITHDRAWAL_CONFIRMED
    assert reason_of(exchange.send(cmd.WithdrawalConfirmed(1, USDT, 60, "a"))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.WithdrawalFailed(1, USDT, 60, "a"))) == R.UNKNOWN_WITHDRAWAL
    exchange.send(cmd.WithdrawalFailed(1, USDT, 40, "b"))
    balance = exchange.engine.balance(1, USDT)
    assert (balance.available, balance.in_transit) == (40, 0)
    assert exchange.engine.external_flows(USDT) == 40


def test_reversed_deposit_takes_what_is_available_and_the_rest_is_owed_under_a_hold() -> None:
    exchange = Exchange()
    exchange.fund(1, USDT, 100)
    exchange.fund(1, USDT, 1000)
    exchange.send(cmd.Withdrawal(1, USDT, 300, "w"))
    for wrong in (
        cmd.DepositReversed(2, USDT, 100, "fund-1"),
        cmd.DepositReversed(1, BTC, 100, "fund-1"),
        cmd.DepositReversed(1, USDT, 99, "fund-1"),
        cmd.DepositReversed(1, USDT, 100, "fund-9"),
    ):
        assert reason_of(exchange.send(wrong)) == R.UNKNOWN_DEPOSIT
    (whole,) = exchange.send(cmd.DepositReversed(1, USDT, 100, "fund-1"))
    assert isinstance(whole, Transfer)
    assert (whole.kind, whole.units, whole.owed_units) == (TransferKind.DEPOSIT_REVERSED, 100, 0)
    before = engine_state_hash(exchange.engine)
    part, changed = exchange.send(cmd.DepositReversed(1, USDT, 1000, "fund-2"))
    assert isinstance(part, Transfer)
    assert isinstance(changed, AccountChanged)
    assert (part.units, part.owed_units, exchange.held(1, USDT)) == (1000, 300, (0, 0))
    assert exchange.engine.balance(1, USDT).in_transit == 300
    assert cmd.Hold(changed.holds) == cmd.Hold.DISPUTE
    assert (exchange.engine.owed(USDT), exchange.engine.external_flows(USDT)) == (300, 0)
    assert engine_state_hash(exchange.engine) != before
    assert reason_of(exchange.send(cmd.DepositReversed(1, USDT, 1000, "fund-2"))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.DepositReversed(1, USDT, 100, "fund-2"))) == R.REFERENCE_CONFLICT
    exchange.fund(1, USDT, 50)
    assert exchange.held(1, USDT) == (50, 0)
    assert reason_of(exchange.send(cmd.Withdrawal(1, USDT, 50, "v"))) == R.ACCOUNT_ON_HOLD


def test_reversed_deposit_that_was_never_credited_moves_no_balance_once() -> None:
    exchange = Exchange()
    exchange.send(cmd.SetAccount(1, cmd.AccountState.BANNED, False, False, cmd.Hold.NONE, "ban"))
    (held,) = exchange.send(cmd.Deposit(1, USDT, 9, "d"))
    assert reason_of(exchange.send(cmd.DepositReversed(1, USDT, 8, "d"))) == R.UNKNOWN_DEPOSIT
    (gone,) = exchange.send(cmd.DepositReversed(1, USDT, 9, "d"))
    assert isinstance(held, Transfer)
    assert isinstance(gone, Transfer)
    assert (held.kind, gone.kind) == (TransferKind.DEPOSIT_UNALLOCATED, TransferKind.UNALLOCATED_REVERSED)
    assert (exchange.held(1, USDT), exchange.engine.owed(USDT)) == ((0, 0), 0)
    assert reason_of(exchange.send(cmd.DepositReversed(1, USDT, 9, "d"))) == R.DUPLICATE_REFERENCE
    assert reason_of(exchange.send(cmd.Deposit(1, USDT, 9, "d"))) == R.DUPLICATE_REFERENCE
