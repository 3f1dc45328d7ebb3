"""Long seeded traffic that mostly succeeds: it knows the engine that it talks to, so every command gets somewhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event, TransferKind
from engine.exchange.sequencer import Sequencer
from engine.sim.memory_sink import MemorySink
from tests.property.exchange_commands import ACCOUNTS, CONFIGURATION, FIRST_DAY, HUGE, OPENS_US, RULE, SECOND, batch_of

TIF = cmd.TimeInForce
MARKETS = {1: (2, 1), 9: (7, 2), 300: (2, 7)}


class Traffic:
    """A sequencer in memory and a seeded source of commands for it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sink = MemorySink()
        self.sequencer = Sequencer(ExchangeEngine(FIRST_DAY), self.sink, cutoff_rule=RULE)
        self.now = OPENS_US - 1
        self.number = 0
        self.sent: list[cmd.Command] = []
        for command in CONFIGURATION:
            self.sequencer.submit(command, self.now)
        self.now = OPENS_US
        for account in ACCOUNTS:
            for asset, units in {1: 10**7, 2: 10**8, 7: 50 * HUGE}.items():
                self.sequencer.submit(cmd.Deposit(account, asset, units, f"fund-{account}-{asset}"), self.now)

    @property
    def engine(self) -> ExchangeEngine:
        return self.sequencer.engine

    def step(self) -> tuple[cmd.Command, list[Event]]:
        """Send one command."""
        rng = self.random
        self.now += rng.choice((0, 0, 1, 50_000, SECOND)) if rng.random() < 0.995 else 26 * 3600 * SECOND
        choices: list[tuple[int, Callable[[], cmd.Command]]] = [
            (60, self._order),
            (8, self._amend),
            (6, self._reduce),
            (6, self._cancel),
            (1, lambda: cmd.CancelAll(self._account(), rng.choice((0, 1, 9, 2)), None, rng.choice(("", "all")))),
            (2, self._withdraw),
            (2, self._answer),
            (3, self._transfer),
            (1, self._reverse),
            (4, self._configure),
            (2, self._stage),
            (1, lambda: cmd.Marker(rng.choice(("", "m")))),
        ]
        command = rng.choices([make for _, make in choices], [weight for weight, _ in choices])[0]()
        if self.sent and rng.random() < 0.02:
            command = rng.choice(self.sent)
        elif getattr(command, "reference", "") or isinstance(command, cmd.SetReference):
            self.sent.append(command)
        return command, self.sequencer.submit(command, self.now)

    def _account(self) -> int:
        return self.random.choice(ACCOUNTS) if self.random.random() < 0.98 else 77

    def _key(self) -> str:
        self.number += 1
        return f"k-{self.number}" if self.random.random() < 0.9 else f"k-{self.random.randint(1, self.number)}"

    def _price(self) -> int:
        rng = self.random
        return max(0, 100 + rng.randint(-12, 12)) if rng.random() < 0.97 else rng.choice((0, -1, 1, 10**9, 2**63 - 1))

    def _quantity(self) -> int:
        rng = self.random
        return rng.randint(1, 40) if rng.random() < 0.98 else rng.choice((0, -1, 10**6, 2**62))

    def _order(self) -> cmd.Command:
        rng = self.random
        market = rng.choice((1, 1, 1, 9, 9, 300, 8)) if rng.random() < 0.2 else rng.choice((1, 9))
        tif = rng.choice((TIF.GTC, TIF.GTC, TIF.GTC, TIF.IOC, TIF.FOK, TIF.POST_ONLY, TIF.MARKET))
        price = self._price()
        if tif == TIF.MARKET:
            price = rng.choice((0, 0, price))
        elif tif == TIF.FOK and rng.random() < 0.5:
            price = 100
        reference = "" if rng.random() < 0.7 else self._key()
        reserve = 0 if rng.random() < 0.8 else max(0, price) + rng.randint(-1, 6)
        return cmd.NewOrder(
            self._account(),
            market,
            rng.choice((0, 1)),
            price,
            self._quantity(),
            tif,
            reference,
            None,
            min(max(reserve, 0), 2**63 - 1),
        )  # type: ignore[arg-type]

    def _resting(self) -> tuple[int, int, int]:
        """Owner (or someone else), order and its quantity."""
        found = list(self.engine.state.order_market)
        if not found or self.random.random() < 0.05:
            return self._account(), self.random.randint(0, self.engine.last_seq + 3), 5
        order = self.engine.order(self.random.choice(found))
        assert order is not None
        return (order.account if self.random.random() < 0.95 else self._account()), order.order_id, order.quantity

    def _amend(self) -> cmd.Command:
        account, order_id, _ = self._resting()
        return cmd.AmendOrder(account, order_id, self._price(), self._quantity())

    def _reduce(self) -> cmd.Command:
        account, order_id, quantity = self._resting()
        return cmd.ReduceOrder(account, order_id, self.random.randint(-1 if quantity > 3 else 0, quantity + 1))

    def _cancel(self) -> cmd.Command:
        account, order_id, _ = self._resting()
        return cmd.CancelOrder(account, order_id)

    def _withdraw(self) -> cmd.Command:
        return cmd.Withdrawal(
            self._account(), self.random.choice((1, 2, 7, 4)), self.random.randint(0, 900), self._key()
        )

    def _answer(self) -> cmd.Command:
        waiting = list(self.engine.state.withdrawals.values())
        kind = self.random.choice((cmd.WithdrawalConfirmed, cmd.WithdrawalFailed))
        if not waiting:
            return kind(self._account(), 1, 1, self._key())
        one = self.random.choice(waiting)
        return kind(one.account, one.asset, one.units + (self.random.random() < 0.1), one.reference)

    def _reverse(self) -> cmd.Command:
        """A deposit that was made, mostly whole; a small one is often spent, a large one hardly ever."""
        rng = self.random
        made = [(key, ref) for (kind, ref), key in self.engine.state.transfers.items() if kind == TransferKind.DEPOSIT]
        key, reference = rng.choice(made)
        units = key.value + (rng.random() < 0.1)
        return cmd.DepositReversed(key.account, key.asset, units, reference)

    def _transfer(self) -> cmd.Command:
        rng = self.random
        units = rng.choice((rng.randint(1, 1000), 10**6, HUGE, 2**127 - 1))
        kind = rng.choice((cmd.Deposit, cmd.Stake, cmd.Unstake, cmd.Reward, cmd.Adjust))
        if kind is cmd.Adjust:
            units = rng.randint(-2000, 2000)
        return kind(self._account(), rng.choice((1, 2, 7)), units, self._key())

    def _stage(self) -> cmd.Command:
        """The next row of a batch, or its end; orders come between them."""
        rng, staged = self.random, self.engine.state.staged
        if staged is None or rng.random() < 0.1:
            self.number += 1
            return cmd.StageTier(self.number, 0, rng.choice((0, 4)), rng.randint(-100, 150), rng.randint(200, 2500))
        if len(staged.rows) > 1 and rng.random() < 0.5:
            end = batch_of(staged.batch, staged.rows, self._key())
            return end if rng.random() < 0.8 else replace(end, accounts=end.accounts + 1)
        who = tuple({self._account() for _ in range(rng.randint(1, 4))})
        row = len(staged.rows) + (rng.random() < 0.05)
        return cmd.StageAccountTiers(staged.batch, row, rng.choice((0, 4)), who)

    def _configure(self) -> cmd.Command:
        rng = self.random
        draw = rng.randrange(6)
        if draw == 0:
            state = rng.choice([cmd.AccountState.ACTIVE] * 8 + list(cmd.AccountState))
            hold = rng.choice((cmd.Hold.NONE, cmd.Hold.NONE, cmd.Hold.DISPUTE))
            may_trade = state == cmd.AccountState.ACTIVE or rng.random() < 0.1
            return cmd.SetAccount(self._account(), state, may_trade, rng.random() < 0.8, hold, self._key())
        if draw == 1:
            return cmd.SetAccountTier(self._account(), rng.choice((0, 4, 6)), self._key())
        if draw == 2:
            return cmd.SetTier(rng.randint(-300, 400), rng.randint(200, 2500), None, rng.choice((0, 4)), self._key())
        if draw == 3:
            return cmd.SetReference(rng.choice((1, 9, 9, 8)), self._price(), self.now - rng.choice((0, 10**7, 10**9)))
        if draw == 4:
            bounds = cmd.MarketLimits(
                rng.choice((0, 2)),
                rng.choice((0, 35)),
                rng.choice((0, 300)),
                rng.choice((0, 80_000)),
                rng.choice((50_000, 1_000_000)),
                rng.choice((SECOND, 3600 * SECOND)),
                self.engine.registry.markets[9].limits.revision + rng.choice((1, 1, 1, 0)),
            )
            return cmd.SetMarket(9, "ETH-BTC", 7, 2, 10**21, 1, None, bounds)
        return rng.choice(
            (
                cmd.OpenAccount(*rng.choice(((50, "late"), (50, "late"), (1, "late"), (50, "u-1")))),
                cmd.SetAsset(rng.choice((1, 30)), "LATE", 3),
                cmd.SetMarket(31, "LATE-USDT", 30, 1, 1, 1),
                cmd.SetMarket(32, "ZERO-USDT", 2, 1, 1, 0),
                cmd.OpeningBalance(1, 1, 5, "too-late"),
            )
        )
