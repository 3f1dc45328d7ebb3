"""A process that loads an exchange until it is killed, and says which commands were acknowledged.

Run as `python -m tests.faults.exchange_load DIRECTORY`. Every command is a function of its number and the engine's
state, so a run that is killed anywhere and continued sends what an uninterrupted one sends.
"""

from __future__ import annotations

import os
import random
import sys
from datetime import date
from pathlib import Path

from engine.clock import CutOffRule, from_day_number, to_us
from engine.exchange import commands as cmd
from engine.exchange import commit_log
from engine.exchange.codec import RECORD_BYTES, JournalRecord
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Side
from engine.exchange.sequencer import Sequencer, open_exchange

FIRST = date(2026, 3, 2)
RULE = CutOffRule(24, 0, "UTC")
USERS = 12
TIF = cmd.TimeInForce
_STEP_US = 150_000_000
"""A day, and with it a snapshot, every 576 commands."""

_SETUP: list[cmd.Command] = [
    cmd.SetAsset(1, "USDT", 6),
    cmd.SetAsset(2, "ETH", 18),
    cmd.SetMarket(1, "ETH-USDT", 2, 1, 10**15, 10, None, cmd.MarketLimits(band_ppm=200_000, slippage_ppm=50_000)),
    cmd.SetTier(-50, 1000),
    *(cmd.OpenAccount(n, f"u-{n}") for n in range(1, USERS + 1)),
    *(cmd.OpeningBalance(n, a, 10**15 * a**10, f"o-{n}-{a}") for n in range(1, USERS + 1) for a in (1, 2)),
]


def command_at(number: int, engine: ExchangeEngine) -> cmd.Command:
    """The command after so many others."""
    if number < len(_SETUP):
        return _SETUP[number]
    rng = random.Random(number)
    user, key = rng.randint(1, USERS), f"load-{number}"
    draw = rng.random()
    resting = sorted(engine.state.account_orders.get(user, ()))
    if resting and draw < 0.3:
        order_id = rng.choice(resting)
        return rng.choice(
            (
                cmd.CancelOrder(user, order_id),
                cmd.ReduceOrder(user, order_id, 2),
                cmd.AmendOrder(user, order_id, 1000 + rng.randint(-9, 9), rng.randint(1, 20)),
            )
        )
    if draw < 0.33:
        return cmd.CancelAll(user)
    if draw < 0.4:
        return cmd.Deposit(user, 1, rng.randint(1, 10**9), key)
    if draw < 0.45:
        return cmd.Withdrawal(user, 2, rng.randint(1, 10**18), key)
    if draw < 0.48:
        return rng.choice((cmd.Stake, cmd.Reward, cmd.Adjust))(user, 1, rng.randint(1, 10**6), key)
    tif = rng.choice((TIF.GTC, TIF.GTC, TIF.GTC, TIF.IOC, TIF.FOK, TIF.POST_ONLY, TIF.MARKET))
    price = 0 if tif == TIF.MARKET else 1000 + rng.randint(-9, 9)
    return cmd.NewOrder(user, 1, rng.choice((Side.BUY, Side.SELL)), price, rng.randint(1, 20), tif, key)


def time_at(number: int) -> int:
    """When the command after so many others arrives."""
    opens = to_us(RULE.instant(from_day_number((FIRST - date(1970, 1, 1)).days - 1)))
    return opens - 1 if number < len(_SETUP) else opens + (number - len(_SETUP)) * _STEP_US


def submit(sequencer: Sequencer) -> None:
    """Send the next command; it is told by its number, since a kill can fall between a cut-off and what caused it."""
    engine = sequencer.engine
    number = engine.last_seq - (engine.open_day - engine.first_day + 1)
    sequencer.submit(command_at(number, engine), time_at(number))


class Acknowledged:
    """A journal's sink that remembers what a commit made durable."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._inner = sequencer.sink
        self._waiting: list[JournalRecord] = []
        sequencer.sink = self

    def append(self, command: cmd.Command, ts_us: int) -> JournalRecord:
        record = self._inner.append(command, ts_us)
        self._waiting.append(record)
        return record

    def commit(self) -> None:
        self._inner.commit()
        lines = "".join(f"{record.seq} {record.crc}\n" for record in self._waiting)
        self._waiting.clear()
        os.write(1, lines.encode())

    def close(self) -> None:
        self._inner.close()


def main(directory: Path) -> None:
    # So that it begins anew in each run, not once in thousands of commands.
    commit_log.LOG_BYTES = 100 * RECORD_BYTES
    sequencer = open_exchange(directory, first_day=FIRST, cutoff_rule=RULE)
    Acknowledged(sequencer)
    groups = random.Random(os.getpid())
    while True:
        for _ in range(groups.choice((1, 3, 10, 40))):
            submit(sequencer)
        sequencer.commit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
