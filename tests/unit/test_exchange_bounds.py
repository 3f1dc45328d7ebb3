"""What the books cannot write down is refused before it is traded: nothing after it could ever be settled."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.clock import CutOffRule, from_day_number, to_us
from engine.exchange import commands as cmd
from engine.exchange import snapshot
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Rejected, RejectReason, Side, Trade, Transfer, TransferKind
from engine.exchange.replay_numba import replay_records
from engine.exchange.replay_world import records_of
from engine.exchange.sequencer import Sequencer
from engine.exchange.state import EngineState
from engine.ledger.journal import NOT_FOR_USERS
from engine.money import from_units, most_units
from engine.sim.memory_sink import MemorySink

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
USD, COIN, FINE = 1, 2, 3
GTC = cmd.TimeInForce.GTC
R = RejectReason


@pytest.fixture
def sequencer() -> Sequencer:
    made = Sequencer(ExchangeEngine(FIRST_DAY), MemorySink(), cutoff_rule=RULE)
    for command in (
        cmd.SetAsset(USD, "USD", 2),
        cmd.SetAsset(COIN, "COIN", 18),
        # A lot is the smallest unit, so a tick is 10^16 dollars for a coin.
        cmd.SetMarket(1, "COIN-USD", COIN, USD, 1, 1),
        cmd.SetMarket(2, "USD-COIN", USD, COIN, 100, 10**14),
        *(cmd.OpenAccount(number, f"u-{number}") for number in (1, 2, 3)),
    ):
        made.submit(command, OPENS_US - 1)
    made.submit(cmd.SetAccount(3, cmd.AccountState.BANNED, False, False, cmd.Hold.NONE, "ban"), OPENS_US)
    return made


def outcome(sequencer: Sequencer, command: cmd.Command) -> object:
    event = sequencer.submit(command, OPENS_US)[-1]
    return event.reason if isinstance(event, Rejected) else event


@pytest.mark.parametrize("decimals", [0, 2, 17, 18])
def test_largest_amount_fits_numeric_38_18(decimals: int) -> None:
    assert from_units(most_units(decimals), decimals) < 10**20 <= from_units(most_units(decimals) + 1, decimals)


def restarted(sequencer: Sequencer, directory: Path) -> EngineState:
    snapshot.save(sequencer.engine, directory / "x.snap")
    return snapshot.load(directory / "x.snap").state


def test_amount_beyond_the_books_comes_in_by_no_way(sequencer: Sequencer, tmp_path: Path) -> None:
    most = most_units(2)
    assert outcome(sequencer, cmd.Deposit(1, USD, most + 1, "d-1")) == R.TOO_LARGE
    assert isinstance(outcome(sequencer, cmd.Deposit(1, USD, most - 5, "d-2")), Transfer)
    # The total counts: house accounts hold the counterpart of all of them.
    assert outcome(sequencer, cmd.Deposit(2, USD, 6, "d-3")) == R.TOO_LARGE
    assert outcome(sequencer, cmd.Reward(2, USD, 6, "r-1")) == R.TOO_LARGE
    assert outcome(sequencer, cmd.Adjust(2, USD, 6, "a-1")) == R.TOO_LARGE
    assert outcome(sequencer, cmd.Deposit(3, USD, most, "d-4")) == R.TOO_LARGE
    held = outcome(sequencer, cmd.Deposit(3, USD, 5, "d-5"))
    assert isinstance(held, Transfer)
    assert held.kind == TransferKind.DEPOSIT_UNALLOCATED
    # Coins of nobody count too, as long as they are there, also after a restart.
    assert outcome(sequencer, cmd.Deposit(2, USD, 1, "d-6")) == R.TOO_LARGE
    assert restarted(sequencer, tmp_path).unallocated == sequencer.engine.state.unallocated == {USD: 5}
    assert isinstance(outcome(sequencer, cmd.DepositReversed(3, USD, 5, "d-5")), Transfer)
    assert restarted(sequencer, tmp_path).unallocated == {}
    assert isinstance(outcome(sequencer, cmd.Deposit(2, USD, 5, "d-6")), Transfer)
    assert isinstance(outcome(sequencer, cmd.Deposit(1, COIN, most_units(18), "d-7")), Transfer)


@pytest.mark.parametrize("name", sorted(NOT_FOR_USERS))
def test_name_of_the_house_is_nobody_elses(sequencer: Sequencer, name: str) -> None:
    assert outcome(sequencer, cmd.OpenAccount(9, name)) == R.INVALID_CONFIGURATION


def test_price_beyond_the_books_is_refused_by_both_engines(sequencer: Sequencer) -> None:
    for account, asset in ((1, USD), (2, COIN)):
        sequencer.submit(cmd.Deposit(account, asset, 10**15, f"d-{asset}"), OPENS_US)
    dear = 10**4
    rest = outcome(sequencer, cmd.NewOrder(2, 1, Side.SELL, dear - 1, 3, GTC))
    assert not isinstance(rest, RejectReason)
    assert outcome(sequencer, cmd.NewOrder(2, 1, Side.SELL, dear, 3, GTC)) == R.TOO_LARGE
    assert outcome(sequencer, cmd.NewOrder(1, 1, Side.BUY, 2**63 - 1, 1, GTC)) == R.TOO_LARGE
    assert outcome(sequencer, cmd.AmendOrder(2, rest.order_id, dear, 3)) == R.TOO_LARGE  # type: ignore[attr-defined]
    assert isinstance(outcome(sequencer, cmd.NewOrder(1, 1, Side.BUY, dear - 1, 2, GTC)), Trade)
    # What is not a decimal of 18 places, or too dear from the first tick on, is no price.
    for per_lot in (3, 10**18 + 1):
        assert outcome(sequencer, cmd.SetMarket(9, "A-B", COIN, USD, per_lot, 1)) == R.INVALID_CONFIGURATION
    assert outcome(sequencer, cmd.SetMarket(9, "A-B", COIN, USD, 1, 10**4)) == R.INVALID_CONFIGURATION
    # Where a tick is small, every 64-bit price fits.
    assert not isinstance(outcome(sequencer, cmd.NewOrder(1, 2, Side.SELL, 2**63 - 1, 1, GTC)), RejectReason)
    sink = sequencer.sink
    assert isinstance(sink, MemorySink)
    replayed = replay_records(FIRST_DAY, records_of(b"".join(sink.raw)))
    assert snapshot.pack(replayed.engine) == snapshot.pack(sequencer.engine)
    assert replayed.reasons.tolist().count(R.TOO_LARGE) == 3
