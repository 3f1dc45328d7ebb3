"""What holds for every stream of commands, against a book a page long."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.clock import CutOffRule, from_day_number, to_us
from engine.exchange import commands as cmd
from engine.exchange import history, snapshot, snapshots
from engine.exchange.book import Book, Order
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import CutOff, Event, OrderAccepted, OrderCancelled, Side, Trade, Transfer, TransferKind
from engine.exchange.journal import journal_path
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.exchange.snapshot import engine_state_hash
from engine.sim.memory_sink import MemorySink
from tests.property.examples import examples

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
HOUR = 3_600_000_000
BUY, SELL, GTC, IOC = Side.BUY, Side.SELL, cmd.TimeInForce.GTC, cmd.TimeInForce.IOC

CONFIGURATION: list[cmd.Command] = [
    cmd.SetAsset(1, "USDT", 6),
    cmd.SetAsset(2, "BTC", 8),
    cmd.SetAsset(3, "ETH", 18),
    cmd.SetMarket(1, "BTC-USDT", 2, 1, 10, 3),
    cmd.SetMarket(2, "ETH-BTC", 3, 2, 10**15, 1),
    cmd.SetTier(-70, 1500),
    *(cmd.OpenAccount(n, f"u-{n}") for n in range(1, 5)),
    *(
        cmd.OpeningBalance(n, a, 3000 * 10 ** (15 if a == 3 else 1), f"o-{n}-{a}")
        for n in range(1, 5)
        for a in (1, 2, 3)
    ),
]

accounts = st.sampled_from([1, 2, 3, 4] * 5 + [5])  # 5 is unknown
orders = st.builds(
    cmd.NewOrder,
    accounts,
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([BUY, SELL]),
    st.sampled_from([*range(1, 9)] * 3 + [0]),
    st.sampled_from([*range(1, 40), 0]),
    st.sampled_from([GTC, GTC, IOC]),
    st.sampled_from([""] * 20 + ["r1", "r2"]),
)
units = st.integers(0, 5_000)
references = st.sampled_from(["a", "b", "c", "d"])
transfers = st.sampled_from(
    [cmd.Deposit, cmd.DepositReversed, cmd.Withdrawal, cmd.WithdrawalConfirmed, cmd.WithdrawalFailed]
).flatmap(
    # Two sizes only, so that confirmations meet their request.
    lambda kind: st.builds(kind, accounts, st.sampled_from([1, 2, 3, 4]), st.just(100) | units, references)
)
cancels = st.builds(cmd.CancelOrder, accounts, st.integers(1, 60).map(lambda n: n + len(CONFIGURATION) + 1))
tiers = st.builds(cmd.SetTier, st.integers(-2000, 3000), st.integers(-1, 3000))
steps = st.tuples(
    # flatmap, since one_of takes a strategy that is named several times only once.
    st.sampled_from([orders] * 14 + [cancels] * 2 + [transfers] * 3 + [tiers]).flatmap(lambda chosen: chosen),
    st.sampled_from([0, 0, 0, 1, HOUR, -HOUR, 30 * HOUR]),
)
spending = st.sampled_from([cmd.Deposit, cmd.DepositReversed, cmd.Withdrawal, cmd.Stake]).flatmap(
    lambda kind: st.builds(kind, accounts, st.sampled_from([1, 2]), st.sampled_from([100, 30_000, 50_000]), references)
)
reversing = st.tuples(orders | spending, st.sampled_from([0, 0, 1, HOUR]))
streams = st.lists(steps, max_size=30) | st.lists(steps, min_size=30, max_size=90)


class Reference:
    """Price-time priority by brute force: a list of resting orders, sorted anew for every fill."""

    def __init__(self) -> None:
        self.resting: list[list[int]] = []  # [order_id, account, market, side, price, quantity]

    def new(self, order_id: int, o: cmd.NewOrder) -> tuple[list[tuple[int, int, int]], int]:
        """Fills as (maker order, price, quantity), and the quantity cancelled."""
        fills, left, crossed_self = [], o.quantity_lots, False
        while left:
            sign = 1 if o.side == BUY else -1
            rivals = [r for r in self.resting if r[2] == o.market and r[3] != o.side]
            rivals = sorted(
                (r for r in rivals if r[4] * sign <= o.price_ticks * sign), key=lambda r: (r[4] * sign, r[0])
            )
            if not rivals or rivals[0][1] == o.account:
                crossed_self = bool(rivals)
                break
            quantity = min(left, rivals[0][5])
            fills.append((rivals[0][0], rivals[0][4], quantity))
            left -= quantity
            rivals[0][5] -= quantity
            self.resting = [r for r in self.resting if r[5]]
        if left and (o.tif == IOC or crossed_self):
            return fills, left
        if left:
            self.resting.append([order_id, o.account, o.market, o.side, o.price_ticks, left])
        return fills, 0

    def cancel(self, order_id: int) -> int:
        (found,) = (r for r in self.resting if r[0] == order_id)
        self.resting.remove(found)
        return found[5]


@dataclass
class Run:
    """A stream sent through a sequencer in memory."""

    sequencer: Sequencer
    sent: list[tuple[cmd.Command, list[Event]]]


def play(stream: list[tuple[cmd.Command, int]], sequencer: Sequencer, *, check: bool = False) -> Run:
    run = Run(sequencer, [])
    now = OPENS_US - HOUR
    for command in CONFIGURATION:
        sequencer.submit(command, now)
    now = OPENS_US
    for command, wait in stream:
        now += wait
        events = sequencer.submit(command, now)
        run.sent.append((command, [e for e in events if not isinstance(e, CutOff)]))
        if check:
            sequencer.engine.check_conservation()
            sequencer.engine.check_locks()
    return run


def in_memory() -> Sequencer:
    return Sequencer(ExchangeEngine(FIRST_DAY), MemorySink(), cutoff_rule=RULE)


@given(streams)
@examples(90, 250)
def test_value_is_conserved_no_balance_is_negative_and_locks_are_the_orders_after_every_command(
    stream: list[tuple[cmd.Command, int]],
) -> None:
    play(stream, in_memory(), check=True)


@given(streams)
@examples(90, 250)
def test_fills_rests_and_cancels_are_those_of_the_brute_force_book(stream: list[tuple[cmd.Command, int]]) -> None:
    run = play(stream, in_memory())
    reference = Reference()
    for command, events in run.sent:
        fills = [(e.maker_order_id, e.price_ticks, e.quantity_lots) for e in events if isinstance(e, Trade)]
        cancelled = sum(e.quantity_lots for e in events if isinstance(e, OrderCancelled))
        if isinstance(command, cmd.NewOrder) and isinstance(events[0], OrderAccepted):
            assert reference.new(events[0].order_id, command) == (fills, cancelled)
        elif isinstance(command, cmd.CancelOrder) and isinstance(events[0], OrderCancelled):
            assert reference.cancel(command.order_id) == cancelled
        else:
            assert (fills, cancelled) == ([], 0)
    expected = sorted(reference.resting, key=lambda r: (r[2], r[3], -r[4] if r[3] == BUY else r[4], r[0]))
    found = [[o.order_id, o.account, m, o.side, o.price, o.quantity] for m, o in run.sequencer.engine.resting()]
    assert found == expected


@given(streams)
@examples(50, 120)
def test_each_fee_is_the_exact_fee_rounded_to_a_neighbouring_unit_and_each_trade_pays_the_exchange(
    stream: list[tuple[cmd.Command, int]],
) -> None:
    for _, events in play(stream, in_memory()).sent:
        for trade in events:
            if isinstance(trade, Trade):
                for fee, rate in (
                    (trade.maker_fee_units, trade.maker_rate_ppm),
                    (trade.taker_fee_units, trade.taker_rate_ppm),
                ):
                    assert abs(fee * 1_000_000 - trade.quote_units * rate) < 1_000_000
                assert trade.maker_fee_units + trade.taker_fee_units >= 0


def reversal_of_a_deposit(engine: ExchangeEngine, drawn: cmd.DepositReversed) -> cmd.DepositReversed:
    """A reversal of one that was made: drawn at random, account, asset, units and reference hardly ever meet."""
    made = sorted((ref, key) for (kind, ref), key in engine.state.transfers.items() if kind == TransferKind.DEPOSIT)
    if not made:
        return drawn
    reference, key = made[drawn.units % len(made)]
    return cmd.DepositReversed(key.account, key.asset, key.value, reference)


@given(st.lists(reversing, min_size=10, max_size=60))
@examples(50, 120)
def test_reversed_deposit_takes_from_its_account_alone_and_owes_only_what_is_not_available(
    stream: list[tuple[cmd.Command, int]],
) -> None:
    sequencer = in_memory()
    play([], sequencer)
    now = OPENS_US
    for drawn, wait in stream:
        now += wait
        command = reversal_of_a_deposit(sequencer.engine, drawn) if isinstance(drawn, cmd.DepositReversed) else drawn
        before = {(b.account, b.asset): b for b in sequencer.engine.balances()}
        events = [e for e in sequencer.submit(command, now) if isinstance(e, Transfer)]
        sequencer.engine.check_conservation()
        if not isinstance(command, cmd.DepositReversed) or not events:
            continue
        after = {(b.account, b.asset): b for b in sequencer.engine.balances()}
        one, key = events[0], (command.account, command.asset)
        was, now_has = before.pop(key, None), after.pop(key, None)
        assert before == after
        available = (was.available if was else 0, now_has.available if now_has else 0)
        assert available[0] - available[1] == one.units - one.owed_units
        assert one.owed_units == 0 or available[1] == 0
        rest = [(b.locked, b.staked, b.in_transit) if b else (0, 0, 0) for b in (was, now_has)]
        assert rest[0] == rest[1]


@given(streams, st.randoms(use_true_random=False))
@examples(25, 40)
def test_snapshot_and_tail_equal_full_replay_and_a_torn_journal_equals_its_prefix(
    stream: list[tuple[cmd.Command, int]], random: object
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with open_exchange(directory, first_day=from_day_number(FIRST_DAY), cutoff_rule=RULE) as sequencer:
            play(stream, sequencer)
            state = snapshot.pack(sequencer.engine)
            digest = engine_state_hash(sequencer.engine)
            last = sequencer.engine.last_seq
        memory = play(stream, in_memory()).sequencer
        assert engine_state_hash(memory.engine) == digest
        with open_exchange(directory, first_day=from_day_number(FIRST_DAY), cutoff_rule=RULE) as again:
            assert snapshot.pack(again.engine) == state
        # Any snapshot of any moment, loaded, is that moment.
        at = random.randrange(last + 1)  # type: ignore[attr-defined]
        moment = history.state_at(directory, at)
        snapshot.save(moment, directory / "moment.snap")
        assert snapshot.pack(snapshot.load(directory / "moment.snap")) == snapshot.pack(moment)
        for one in snapshots.listed(directory):
            one.path.unlink()
        assert snapshot.pack(history.state_at(directory, at)) == snapshot.pack(moment)
        assert snapshot.pack(history.state_at(directory, last)) == state
        path = journal_path(directory)
        path.write_bytes(path.read_bytes()[: (at + 1) * 160 + random.randrange(160)])  # type: ignore[attr-defined]
        with open_exchange(directory, first_day=from_day_number(FIRST_DAY), cutoff_rule=RULE) as torn:
            assert snapshot.pack(torn.engine) == snapshot.pack(moment)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6), st.booleans(), st.integers(0, 30)), max_size=120))
@examples(100, 200)
def test_book_keeps_priority_through_rests_and_removals_in_any_order(moves: list[tuple[int, int, bool, int]]) -> None:
    book, model = Book(), []
    for number, (side, price, remove, index) in enumerate(moves):
        if remove and model:
            gone = model.pop(index % len(model))
            book.remove(gone)
        else:
            order = Order(number, 1, side, price, 1, 0)
            book.rest(order)
            model.append(order)
        for each in (BUY, SELL):
            line = sorted(
                (o for o in model if o.side == each), key=lambda o: (-o.price if each == BUY else o.price, o.order_id)
            )
            assert list(book.queue(each)) == line
            assert book.best(each) is (line[0] if line else None)
        assert set(book.orders) == {o.order_id for o in model}
        for heap in book.heaps:
            assert len(heap) == len(set(heap)), "a price that comes and goes must not fill the heap"
