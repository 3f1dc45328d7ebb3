"""What people do on the demo exchange: quotes, orders, deposits, withdrawals, mistakes.

What belongs here: the seeded order flow; every choice comes from one `random.Random` and the engine's own state.
What does not: files and restarts (see `demo`), sizes and assets (see `demo_world`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from engine.clock import CloseDate, to_us
from engine.exchange import commands as cmd
from engine.exchange.events import Event, OrderAccepted, Side, Trade
from engine.exchange.locks import lock_units
from engine.exchange.sequencer import Sequencer
from engine.sim.demo_world import ASSETS, MAKER_FUNDS, MARKETS, QTRA, USDT, USER_FUNDS, DemoConfig

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_GTC, _IOC = cmd.TimeInForce.GTC, cmd.TimeInForce.IOC


@dataclass(frozen=True, slots=True)
class _Pending:
    """A withdrawal that custody has not answered yet."""

    due_us: int
    request: cmd.Withdrawal
    confirmed: bool


class DemoFlow:
    """The demo's people, acting through a sequencer."""

    def __init__(self, sequencer: Sequencer, config: DemoConfig) -> None:
        self.sequencer = sequencer
        self.engine = sequencer.engine
        self.config = config
        self.random = random.Random(config.seed)
        self.mids = {one.command.market: one.start_ticks for one in MARKETS}
        self.starts = dict(self.mids)
        self.quotes: dict[tuple[int, int], list[int]] = {}
        self.user_orders: list[tuple[int, int]] = []
        self.pending: list[_Pending] = []
        self.number = 0

    def run(self) -> Iterator[None]:
        """Live through every day; yields after each step. Ends with the last day's cut-off."""
        first_us = self._instant(self.config.first_day - timedelta(days=1))
        self._configure(first_us - _HOUR)
        self._fund(first_us)
        for index in range(self.config.days):
            day = self.config.first_day + timedelta(days=index)
            start = first_us + 30 * _MINUTE if index == 0 else self._instant(day - timedelta(days=1)) + 10 * _SECOND
            yield from self._day(start, self._instant(day))
            if index + 1 < self.config.days:
                self._boundary(self._instant(day))
        self.sequencer.cut_off(day)

    @property
    def steps(self) -> int:
        """How often `run` yields."""
        return self.config.days * self.config.steps_per_day

    def _instant(self, day: CloseDate) -> int:
        return to_us(self.config.cutoff_rule.instant(day))

    def _send(self, command: cmd.Command, at_us: int) -> list[Event]:
        return self.sequencer.submit(command, at_us)

    def _reference(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}-{self.number:07d}"

    def _user(self) -> int:
        return self.random.randint(1, self.config.users)

    def _maker(self, number: int) -> int:
        return self.config.users + 1 + number

    def _configure(self, at_us: int) -> None:
        for asset in ASSETS:
            self._send(asset, at_us)
        for market in MARKETS:
            self._send(market.command, at_us)
        self._send(cmd.SetTier(self.config.maker_rate_ppm, self.config.taker_rate_ppm), at_us)
        for user in range(1, self.config.users + 1):
            self._send(cmd.OpenAccount(user, f"u-{user:04d}"), at_us)
        for number in range(self.config.makers):
            self._send(cmd.OpenAccount(self._maker(number), f"mm-{number + 1:02d}"), at_us)

    def _fund(self, at_us: int) -> None:
        """Makers first, then users over half an hour, then the first quotes."""
        rng = self.random
        for number in range(self.config.makers):
            for asset, units in MAKER_FUNDS.items():
                self._send(cmd.Deposit(self._maker(number), asset, units, self._reference("dep")), at_us)
        for user in range(1, self.config.users + 1):
            at_us += rng.randint(1, 25 * _MINUTE // self.config.users)
            for asset, (least, most) in USER_FUNDS.items():
                if asset == USDT or rng.random() < 0.4:
                    self._send(cmd.Deposit(user, asset, rng.randint(least, most), self._reference("dep")), at_us)
            self._stake(user, at_us)
        for number in range(self.config.makers):
            for one in MARKETS:
                at_us += rng.randint(1, _SECOND)
                self._requote(number, one.command, at_us)
            if number == 0:
                # What other markets are quoted in has a price before they trade.
                self._certain_trade(MARKETS[0].command, at_us, None)

    def _day(self, start_us: int, end_us: int) -> Iterator[None]:
        rng = self.random
        steps = self.config.steps_per_day
        times = sorted(rng.randrange(start_us, end_us - 5 * _SECOND) for _ in range(steps))
        mistakes = {rng.randrange(steps): number for number in range(7)}
        for step, at_us in enumerate(times):
            self._answer_withdrawals(at_us)
            if step in mistakes:
                self._mistake(mistakes[step], at_us)
            else:
                self._step(at_us)
            yield
        for _ in range(3):
            self._withdraw(end_us - 4 * _SECOND, answer_us=end_us + rng.randint(_MINUTE, 30 * _HOUR))

    def _step(self, at_us: int) -> None:
        rng = self.random
        draw = rng.random()
        market = rng.choice(MARKETS).command
        if draw < 0.25:
            self._requote(rng.randrange(self.config.makers), market, at_us)
        elif draw < 0.88:
            self._take(self._user(), market, rng.choice((Side.BUY, Side.SELL)), at_us)
        elif draw < 0.96:
            self._rest(self._user(), market, at_us)
        elif draw < 0.975:
            self._cancel(at_us)
        elif draw < 0.98:
            self._stake(self._user(), at_us)
        elif draw < 0.99:
            asset, (least, most) = rng.choice(tuple(USER_FUNDS.items()))
            self._send(cmd.Deposit(self._user(), asset, rng.randint(least, most) // 4, self._reference("dep")), at_us)
        else:
            patience = 30 * _HOUR if rng.random() < 0.1 else 20 * _MINUTE
            self._withdraw(at_us, answer_us=at_us + rng.randint(_MINUTE, patience))

    def _requote(self, number: int, market: cmd.SetMarket, at_us: int) -> None:
        """A maker takes its two quotes away and places new ones around a price that has walked."""
        rng = self.random
        maker = self._maker(number)
        for order_id in self.quotes.pop((number, market.market), []):
            if self.engine.order(order_id) is not None:
                self._send(cmd.CancelOrder(maker, order_id), at_us)
        start, mid = self.starts[market.market], self.mids[market.market]
        stride = max(1, start // 15_000)
        mid = min(max(mid + rng.randint(-stride, stride), start * 4 // 5), start * 6 // 5)
        self.mids[market.market] = mid
        spread = max(1, start * (number + 2) // 10_000)
        kept = self.quotes.setdefault((number, market.market), [])
        for side in (Side.BUY, Side.SELL):
            price = mid - spread if side == Side.BUY else mid + spread
            quantity = self._affordable(maker, market, side, price, rng.randint(1, 20))
            if quantity:
                order = cmd.NewOrder(maker, market.market, side, price, quantity, _GTC)
                kept.extend(e.order_id for e in self._send(order, at_us) if isinstance(e, OrderAccepted))

    def _affordable(self, account: int, market: cmd.SetMarket, side: Side, price: int, permille: int) -> int:
        """How many lots a share (in thousandths) of what an account has free is good for, fee included."""
        asset = market.quote if side == Side.BUY else market.base
        free = self.engine.balance(account, asset).available
        per_lot = lock_units(self.engine.registry.markets[market.market], side, price, 1, self.config.taker_rate_ppm)
        share = free * permille // 1000
        return share // per_lot

    def _take(
        self, user: int, market: cmd.SetMarket, side: Side, at_us: int, effective_us: int | None = None
    ) -> list[Event]:
        """A user takes what stands there, up to a thousandth beyond the best price; nothing if it can't."""
        best = self.engine.best(market.market, Side.SELL if side == Side.BUY else Side.BUY)
        if best is None or best.account == user:
            return []
        reach = best.price // 1000
        price = best.price + reach if side == Side.BUY else max(1, best.price - reach)
        quantity = self._affordable(user, market, side, price, self.random.randint(10, 150))
        if not quantity:
            return []
        reference = self._reference("o")
        order = cmd.NewOrder(user, market.market, side, price, quantity, _IOC, reference, effective_us)
        return self._send(order, at_us)

    def _rest(self, user: int, market: cmd.SetMarket, at_us: int) -> None:
        """A user leaves an order near the market; some cross it and trade at once."""
        rng = self.random
        side = rng.choice((Side.BUY, Side.SELL))
        mid = self.mids[market.market]
        away = rng.randint(-max(1, mid // 2000), max(2, mid // 100))
        price = mid - away if side == Side.BUY else mid + away
        quantity = self._affordable(user, market, side, price, rng.randint(10, 200))
        if quantity:
            order = cmd.NewOrder(user, market.market, side, price, quantity, _GTC, self._reference("o"))
            for event in self._send(order, at_us):
                if isinstance(event, OrderAccepted):
                    self.user_orders.append((user, event.order_id))

    def _cancel(self, at_us: int) -> None:
        """A user changes its mind about an order that may be gone by now (then the exchange refuses)."""
        if self.user_orders:
            user, order_id = self.user_orders.pop(self.random.randrange(len(self.user_orders)))
            self._send(cmd.CancelOrder(user, order_id), at_us)

    def _stake(self, user: int, at_us: int) -> None:
        """A user stakes a part of its coins, or takes a part of its stake back."""
        rng = self.random
        held = self.engine.balance(user, QTRA)
        back = held.staked > 0 and rng.random() < 0.4
        units = (held.staked if back else held.available) * rng.randint(100, 900) // 1000
        if units:
            command = cmd.Unstake if back else cmd.Stake
            self._send(command(user, QTRA, units, self._reference("stk")), at_us)

    def _withdraw(self, at_us: int, *, answer_us: int) -> None:
        rng = self.random
        user, asset = self._user(), rng.choice(tuple(USER_FUNDS))
        units = self.engine.balance(user, asset).available * rng.randint(1, 300) // 1000
        if units:
            request = cmd.Withdrawal(user, asset, units, self._reference("wd"))
            self._send(request, at_us)
            self.pending.append(_Pending(answer_us, request, rng.random() < 0.8))

    def _answer_withdrawals(self, at_us: int) -> None:
        due = [one for one in self.pending if one.due_us <= at_us]
        if not due:
            return
        self.pending = [one for one in self.pending if one.due_us > at_us]
        for one in due:
            answer = cmd.WithdrawalConfirmed if one.confirmed else cmd.WithdrawalFailed
            w = one.request
            self._send(answer(w.account, w.asset, w.units, w.reference), at_us)

    def _mistake(self, number: int, at_us: int) -> None:
        """A command that the exchange must refuse."""
        user = self._user()
        resting = next((order for _, order in self.engine.resting() if order.account != user), None)
        mistakes: tuple[cmd.Command, ...] = (
            cmd.NewOrder(user, 1, Side.BUY, 6_400_000, 10**9, _IOC, self._reference("o")),
            cmd.NewOrder(999_999, 1, Side.BUY, 6_400_000, 1, _IOC, self._reference("o")),
            cmd.NewOrder(user, 1, Side.SELL, 0, 1, _IOC, self._reference("o")),
            cmd.NewOrder(user, 1, Side.SELL, 6_400_000, -1, _GTC, self._reference("o")),
            cmd.Deposit(user, USDT, 10**6, "dep-0000001"),
            cmd.CancelOrder(user, resting.order_id if resting is not None else 1),
            cmd.WithdrawalConfirmed(user, USDT, 10**6, self._reference("wd")),
        )
        self._send(mistakes[number], at_us)

    def _boundary(self, end_us: int) -> None:
        """One trade exactly at the cut-off instant, one trade and one deposit that arrive late."""
        market = MARKETS[0].command
        self._requote(0, market, end_us - 2 * _SECOND)
        self._certain_trade(market, end_us, None)
        self._certain_trade(market, end_us + _SECOND // 4, end_us - 3 * _SECOND // 2)
        late = cmd.Deposit(self._user(), USDT, 250 * 10**6, self._reference("dep"), end_us - 40 * _SECOND)
        self._send(late, end_us + _SECOND)

    def _certain_trade(self, market: cmd.SetMarket, at_us: int, effective_us: int | None) -> None:
        """The first user who can trade at this instant does."""
        for user in range(1, self.config.users + 1):
            for side in (Side.BUY, Side.SELL):
                if any(isinstance(e, Trade) for e in self._take(user, market, side, at_us, effective_us)):
                    return
