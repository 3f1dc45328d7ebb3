"""exchange-core's own Gherkin scenarios, run against this engine, the journals that its events become, and the ledger.

The legs of each step's journals are summed here; after a scenario all its events are settled into a book of its own in
Postgres, which must come to the same. Two things differ by design and are bridged here. exchange-core's balance of a
client is what is available, without what orders hold: compared with `available`, while the ledger must hold available +
locked. Its EUR_USD is a future traded on margin; here it is a spot market, so each client gets euros to sell (no
scenario looks at them).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_bdd", reason="pytest-bdd is in the dev extra: install it from the lock")

from pytest_bdd import parsers, scenarios, step

from engine.clock import CutOffRule, from_day_number, to_us
from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event, OrderAccepted, Rejected, RejectReason, Side, Trade
from engine.exchange.postings import journal_of
from engine.exchange.sequencer import Sequencer
from engine.ledger.journal import check_balanced
from engine.sim.memory_sink import MemorySink
from engine.store.settlement import Settler
from tests.fixtures.books import BookUnderTest, MakeBook

FEATURES = Path(__file__).parents[2].parent / "shared" / "vectors" / "exchange_core"
if FEATURES.exists():
    scenarios(str(FEATURES))
else:
    pytest.skip(f"outside vectors absent: {FEATURES}", allow_module_level=True)

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
ASSETS = {"USD": 1, "XBT": 2, "ETH": 3, "EUR": 4}
# exchange-core's test constants: a lot of ETH is 100,000 units and a step of its price 10 units of XBT.
MARKETS = {"EUR_USD": (1, "EUR", "USD", 1, 1), "ETH_XBT": (2, "ETH", "XBT", 100_000, 10)}
REASONS = {
    "RISK_NSF": RejectReason.INSUFFICIENT_FUNDS,
    "RISK_INVALID_RESERVE_BID_PRICE": RejectReason.INVALID_PRICE,
    "MATCHING_MOVE_FAILED_PRICE_OVER_RISK_LIMIT": RejectReason.PRICE_ABOVE_RESERVE,
    "MATCHING_UNKNOWN_ORDER_ID": RejectReason.UNKNOWN_ORDER,
}
SIDES = {"BID": Side.BUY, "ASK": Side.SELL}
TIFS = {"GTC": cmd.TimeInForce.GTC, "IOC": cmd.TimeInForce.IOC, "FOK": cmd.TimeInForce.FOK}


class World:
    """The engine, the ledger's balances in memory, and the feature's names for both."""

    def __init__(self) -> None:
        self.sequencer = Sequencer(ExchangeEngine(FIRST_DAY), MemorySink(), cutoff_rule=RULE)
        self.ledger: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.accounts: dict[str, int] = {}
        self.order_ids: dict[int, int] = {}
        self.asked: dict[int, tuple[cmd.NewOrder, str]] = {}
        self.filled: defaultdict[int, int] = defaultdict(int)
        self.trades: list[Trade] = []
        self.references = 0
        self.events: list[Event] = []
        for symbol, asset in ASSETS.items():
            self.send(cmd.SetAsset(asset, symbol, 0))
        for symbol, (market, base, quote, lot, tick_lot) in MARKETS.items():
            self.send(cmd.SetMarket(market, symbol, ASSETS[base], ASSETS[quote], lot, tick_lot))

    @property
    def engine(self) -> ExchangeEngine:
        return self.sequencer.engine

    def send(self, command: cmd.Command) -> list[Event]:
        events = self.sequencer.submit(command, OPENS_US)
        self.events += events
        for event in events:
            journal = journal_of(event, self.engine.registry)
            if journal is not None:
                check_balanced(journal)
                for leg in journal.legs:
                    self.ledger[leg.account, leg.asset] += leg.units
            if isinstance(event, Trade):
                self.trades.append(event)
                for order_id in (event.maker_order_id, event.taker_order_id):
                    self.filled[order_id] += event.quantity_lots
        self.engine.check_conservation()
        self.engine.check_locks()
        return events

    def open(self, client: str) -> None:
        self.accounts[client] = len(self.accounts) + 1
        self.send(cmd.OpenAccount(self.accounts[client], client.lower()))
        self.deposit(client, "EUR", 10**6)

    def deposit(self, client: str, asset: str, units: int) -> None:
        self.references += 1
        self.send(cmd.Deposit(self.accounts[client], ASSETS[asset], units, f"d-{self.references}"))

    def place(self, client: str, side: str, number: int, terms: str) -> list[Event]:
        match = re.fullmatch(r"(\d+)@(\d+) \(type: (\w+), symbol: (\w+)(?:, reservePrice: (\d+))?\)", terms)
        assert match is not None, terms
        price, size, kind, symbol, reserve = match.groups()
        order = cmd.NewOrder(
            self.accounts[client],
            MARKETS[symbol][0],
            SIDES[side],
            int(price),
            int(size),
            TIFS[kind],
            f"o-{number}-{self.engine.last_seq}",
            None,
            int(reserve or 0),
        )
        self.trades.clear()
        events = self.send(order)
        for event in events:
            if isinstance(event, OrderAccepted):
                self.order_ids[number] = event.order_id
                self.asked[event.order_id] = (order, symbol)
        return events

    def move(self, client: str, price: int, number: int) -> list[Event]:
        """One that rests no more, or never did, is for the engine to refuse."""
        order_id = self.order_ids.get(number, 0)
        order = self.engine.order(order_id)
        self.trades.clear()
        return self.send(cmd.AmendOrder(self.accounts[client], order_id, price, order.quantity if order else 1))


@pytest.fixture
def world(make_book: MakeBook) -> Iterator[World]:
    world = World()
    yield world
    settle(world, make_book(None))


def settle(world: World, book: BookUnderTest) -> None:
    """Settle a scenario's events; the ledger must hold what the engine does."""
    registry = world.engine.registry
    with book.app() as connection:
        Settler(registry).settle(connection, world.events)
    held = {
        (registry.accounts[one.account].name, registry.assets[one.asset].symbol): one.total
        for one in world.engine.balances()
    }
    with book.admin() as owner:
        rows = owner.execute(
            "SELECT account, asset, balance FROM ledger.accounts WHERE balance <> 0 AND account = ANY(%s)",
            ([account.name for account in registry.accounts.values()],),
        ).fetchall()
    assert held
    assert {(account, asset): balance for account, asset, balance in rows} == held


def table_of(datatable: list[list[str]]) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in datatable]


@step(parsers.parse("New client {client} has a balance:"))
def new_client(world: World, client: str, datatable: list[list[str]]) -> None:
    world.open(client)
    for asset, units in table_of(datatable):
        world.deposit(client, asset, int(units))


@step("Users and their balances:")
def users(world: World, datatable: list[list[str]]) -> None:
    """The form of a later version of the same features: a row for each balance."""
    _, *rows = table_of(datatable)
    for client, asset, units in rows:
        if client not in world.accounts:
            world.open(client)
        world.deposit(client, asset, int(units))


@step(parsers.re(r"(?P<units>\d+) (?P<asset>\w+) is added to the balance of a client (?P<client>\w+)"))
def added(world: World, units: str, asset: str, client: str) -> None:
    world.deposit(client, asset, int(units))


@step(parsers.re(r"A client (?P<client>\w+) places an (?P<side>ASK|BID) order (?P<number>\d+) at (?P<terms>.+)"))
def places(world: World, client: str, side: str, number: str, terms: str) -> None:
    events = world.place(client, side, int(number), terms)
    assert isinstance(events[0], OrderAccepted), events


@step(
    parsers.re(
        r"A client (?P<client>\w+) could not place an (?P<side>ASK|BID) order (?P<number>\d+) at (?P<terms>.+)"
        r" due to (?P<reason>\w+)"
    )
)
def could_not_place(world: World, client: str, side: str, number: str, terms: str, reason: str) -> None:
    (event,) = world.place(client, side, int(number), terms)
    assert isinstance(event, Rejected)
    assert event.reason == REASONS[reason]


@step(parsers.re(r"A client (?P<client>\w+) moves a price to (?P<price>\d+) of the order (?P<number>\d+)"))
def moves(world: World, client: str, price: str, number: str) -> None:
    events = world.move(client, int(price), int(number))
    assert not isinstance(events[0], Rejected), events


@step(
    parsers.re(
        r"A client (?P<client>\w+) could not move a price to (?P<price>\d+) of the order (?P<number>\d+)"
        r" due to (?P<reason>\w+)"
    )
)
def could_not_move(world: World, client: str, price: str, number: str, reason: str) -> None:
    (event,) = world.move(client, int(price), int(number))
    assert isinstance(event, Rejected)
    assert event.reason == REASONS[reason]


@step(parsers.re(r"A client (?P<client>\w+) cancels the remaining size (?P<size>\d+) of the order (?P<number>\d+)"))
def cancels(world: World, client: str, size: str, number: str) -> None:
    (event,) = world.send(cmd.CancelOrder(world.accounts[client], world.order_ids[int(number)]))
    assert getattr(event, "quantity_lots", None) == int(size)


@step(parsers.re(r"The order (?P<number>\d+) is (?P<how>partially|fully) matched\. (?P<facts>.+)"))
def matched(world: World, number: str, how: str, facts: str) -> None:
    wanted = dict(re.findall(r"(\w+): (\d+)", facts))
    (trade,) = world.trades
    order_id = world.order_ids[int(number)]
    assert trade.maker_order_id == order_id
    assert (trade.price_ticks, trade.quantity_lots) == (int(wanted["LastPx"]), int(wanted["LastQty"]))
    assert (world.engine.order(order_id) is None) == (how == "fully")
    if "bidderHoldPrice" in wanted:
        assert world.asked[order_id][0].reserve_price_ticks == int(wanted["bidderHoldPrice"])


@step("No trade events")
def no_trades(world: World) -> None:
    assert world.trades == []


@step(parsers.parse("An {symbol} order book is:"))
def book_is(world: World, symbol: str, datatable: list[list[str]]) -> None:
    rows = [row for row in table_of(datatable) if row[1] != "price"]
    depth: dict[tuple[int, int], int] = defaultdict(int)
    for market, order in world.engine.resting():
        if market == MARKETS[symbol][0]:
            depth[order.price, order.side] += order.quantity
    found = [
        (str(quantity), str(price), "") if side == Side.BUY else ("", str(price), str(quantity))
        for (price, side), quantity in sorted(depth.items(), reverse=True)
    ]
    assert found == [tuple(row) for row in rows]


@step(parsers.parse("A client {client} orders:"))
def orders_are(world: World, client: str, datatable: list[list[str]]) -> None:
    head, *rows = table_of(datatable)
    names = {order_id: number for number, order_id in world.order_ids.items()}
    found = []
    for _, order in world.engine.resting():
        if order.account == world.accounts[client]:
            fields: dict[str, Any] = {
                "id": names[order.order_id],
                "price": order.price,
                "size": world.asked[order.order_id][0].quantity_lots,
                "filled": world.filled[order.order_id],
                "reservePrice": order.reserve,
                "side": "BID" if order.side == Side.BUY else "ASK",
            }
            assert fields["size"] - fields["filled"] == order.quantity
            found.append([str(fields[name]) for name in head])
    assert sorted(found) == sorted(rows)


@step(parsers.parse("A client {client} does not have active orders"))
def no_orders(world: World, client: str) -> None:
    assert [o for _, o in world.engine.resting() if o.account == world.accounts[client]] == []


@step(parsers.parse("A balance of a client {client}:"))
def balance_is(world: World, client: str, datatable: list[list[str]]) -> None:
    for asset, units in table_of(datatable):
        held = world.engine.balance(world.accounts[client], ASSETS[asset])
        assert held.available == int(units)
        assert world.ledger[client.lower(), asset] == held.available + held.locked
