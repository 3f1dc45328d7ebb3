"""Market data in this process: what tells a consumer that its copy of a book is wrong though nothing more comes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from engine.clock import CutOffRule, from_day_number, to_us
from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Side
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.service import telling
from engine.service.book_follower import BookFollower
from engine.service.market_data import MarketData, Told
from engine.sim.memory_sink import MemorySink

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
LISTED: tuple[cmd.Command, ...] = (
    cmd.SetAsset(1, "USDT", 6),
    cmd.SetAsset(2, "BTC", 8),
    cmd.SetMarket(1, "BTC-USDT", 2, 1, 10**4, 1),
    cmd.SetTier(0, 0),
    cmd.OpenAccount(1, "u-1"),
    cmd.OpeningBalance(1, 1, 10**12, "o-1"),
)


class Market:
    """A sequencer in memory and the market data beside it."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.sequencer = Sequencer(ExchangeEngine(FIRST_DAY), self.sink, cutoff_rule=RULE)
        for command in LISTED:
            self.sequencer.submit(command, OPENS_US - 1)
        self.data = MarketData(self.sequencer.engine)

    def bid(self, price: int) -> list[Told]:
        events = self.sequencer.submit(cmd.NewOrder(1, 1, Side.BUY, price, 5, cmd.TimeInForce.GTC), OPENS_US)
        return self.data.apply(self.sink.records[-1], events)

    async def snapshot(self) -> bytes:
        found = self.data.snapshot("BTC-USDT")
        assert found is not None
        return found


def test_last_delta_that_a_consumer_missed_shows_at_the_next_state() -> None:
    market = Market()

    async def follow() -> None:
        whole, lossy = BookFollower(market.snapshot), BookFollower(market.snapshot)
        for follower in (whole, lossy):
            await follower.start()
        (early,) = market.data.states()
        for price in (90, 91, 92):
            ((_, delta),) = market.bid(price)
            await whole.on_delta(delta)
            if price != 92:
                await lossy.on_delta(delta)
        assert lossy.resyncs == 0
        assert lossy.hash != whole.hash
        (state,) = market.data.states()
        assert state[0] == "marketdata.orderbook.BTC-USDT"
        for follower in (whole, lossy):
            await follower.on_delta(early[1])
            await follower.on_delta(state[1])
        assert (whole.resyncs, lossy.resyncs) == (0, 1)
        assert lossy.hash == whole.hash == json.loads(state[1])["orderbookHash"]
        # The same deltas, and yet another book.
        lossy._bids["0.01"] = "1"
        await lossy.on_delta(market.data.states()[0][1])
        assert lossy.resyncs == 2
        assert lossy.hash == whole.hash

    asyncio.run(follow())


class Heard:
    """A broker and a publisher that keep what they are told."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    async def on_request(self, subject: str, handle: object) -> None: ...

    async def flush(self) -> None: ...

    async def tell(self, subject: str, data: bytes) -> None:
        self.told.append(data)


def test_book_of_a_silent_market_is_stated_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_STATE_EVERY_S", 0.01)
    with open_exchange(tmp_path, first_day=from_day_number(FIRST_DAY), cutoff_rule=RULE) as sequencer:
        for command in LISTED:
            sequencer.submit(command, OPENS_US - 1)
        sequencer.commit()
        telling.write_cursor(tmp_path, sequencer.engine.last_seq)

        async def listen() -> list[bytes]:
            heard = Heard()
            loop = telling.TellingLoop(
                tmp_path,
                lambda: len(LISTED),
                heard,  # type: ignore[arg-type]
                heard,  # type: ignore[arg-type]
            )
            running = asyncio.create_task(loop.run())
            async with asyncio.timeout(10):
                while len(heard.told) < 3:
                    await asyncio.sleep(0.01)
            running.cancel()
            loop.close()
            return heard.told

        told = asyncio.run(listen())
    assert {json.loads(one)["type"] for one in told} == {"state"}
    assert json.loads(told[0])["sequence"] == len(LISTED)
