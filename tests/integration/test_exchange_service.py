"""The exchange as a service: orders over NATS, told once and in order, settled, whatever is stopped or killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import psutil
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from engine.events.ordered_publisher import STREAM
from engine.exchange.events import Trade
from engine.exchange.history import events_from
from engine.service.book_follower import BookFollower
from engine.service.messages import MAX_MESSAGE_BYTES
from pipelines.local.nats import ensure_nats, stop_nats
from pipelines.local.postgres import ensure_postgres, stop_postgres
from pipelines.settings import Settings
from tests.fixtures.exchange_service import SYMBOL, Served, ask, balances, counted, new_service, order


def journalled_trades(service: Served) -> list[int]:
    with events_from(service.directory, 0) as stream:
        return [event.trade_id for events in stream for event in events if isinstance(event, Trade)]


def told_trades(service: Served) -> list[int]:
    """Trade ids as the stream holds them, in its order."""

    async def read(client: Client) -> list[int]:
        stream = client.jetstream()
        found: list[int] = []
        prefix = f"{service.name}@"
        for number in range(1, (await stream.stream_info(STREAM)).state.last_seq + 1):
            message = await stream.get_msg(STREAM, number)
            if message.subject == "trades.executed" and (message.headers or {})["Nats-Msg-Id"].startswith(prefix):
                found.append(int(json.loads(message.data or b"")["tradeId"]))
        return found

    return service.run(read)  # type: ignore[no-any-return]


async def trade_pairs(client: Client, count: int, start: int = 0) -> list[dict[str, Any]]:
    """So many asks, each hit at once by another user's bid."""
    replies = []
    for number in range(start, start + count):
        maker, taker = f"u-{1 + number % 4}", f"u-{5 + number % 4}"
        replies.append(await ask(client, "orders.submit", order(maker, "sell", "100", "0.001")))
        replies.append(await ask(client, "orders.submit", order(taker, "buy", "100", "0.001")))
    assert all(reply["success"] for reply in replies), replies
    return replies


def test_submit_fill_settle_and_the_ledger_equals_the_engine(served: Served) -> None:
    async def talk(client: Client) -> None:
        heard: list[tuple[str, dict[str, Any]]] = []

        async def hear(message: Any) -> None:
            heard.append((message.subject, json.loads(message.data)))

        for subject in ("orders.*", "trades.>", "balances.>", "risk.>", "marketdata.>"):
            await client.subscribe(subject, cb=hear)
        await client.flush()
        resting = await ask(client, "orders.submit", order("u-1", "sell", "100.5", "0.02", clientOrderId="a-1"))
        assert resting["order"]["status"] == "open"
        taken = await ask(client, "orders.submit", order("u-2", "buy", "101", "0.01", timeInForce="IOC"))
        assert taken["order"] | {"timestamp": ""} == {
            "orderId": str(int(resting["order"]["orderId"]) + 1),
            "clientOrderId": "",
            "userId": "u-2",
            "symbol": SYMBOL,
            "side": "buy",
            "type": "limit",
            "timeInForce": "IOC",
            "price": "101",
            "quantity": "0.01",
            "filledQuantity": "0.01",
            "remainingQuantity": "0",
            "status": "filled",
            "trades": [{"tradeId": "1", "price": "100.5", "quantity": "0.01", "fee": "0.001005"}],
            "sequence": resting["order"]["sequence"] + 1,
            "timestamp": "",
        }
        market = await ask(client, "orders.submit", order(3, "buy", None, "0.005"))
        assert market["order"]["status"] == "filled"
        maker = await ask(client, "ledger.balances.get", {"userId": "u-1"})
        btc = {"asset": "BTC", "available": "99.98", "locked": "0.005", "staked": "0", "inTransit": "0"}
        assert btc in maker["balances"]
        one = await ask(client, "ledger.balances.get", {"userId": 3, "asset": "BTC"})
        assert [balance["available"] for balance in one["balances"]] == ["100.005"]
        cancel = {"userId": "u-1", "orderId": resting["order"]["orderId"], "symbol": SYMBOL}
        assert (await ask(client, "orders.cancel", cancel))["order"]["remainingQuantity"] == "0.005"
        await asyncio.to_thread(served.told)
        await client.flush()
        await asyncio.sleep(0.1)
        subjects = [subject for subject, payload in heard if payload.get("type") != "state"]
        for subject, times in {
            "orders.created": 3,
            "orders.filled": 2,
            "orders.cancelled": 1,
            "trades.executed": 2,
            f"trades.executed.{SYMBOL}": 2,
            f"marketdata.trade.{SYMBOL}": 2,
            f"marketdata.orderbook.{SYMBOL}": 4,
        }.items():
            assert subjects.count(subject) == times, (subject, subjects)
        last = [payload for subject, payload in heard if subject == "balances.updated.u-1"][-1]
        assert last["balances"][1] == {**btc, "available": "99.985", "locked": "0"}

    served.run(talk)
    balances(served)
    assert served.book.value("SELECT count(*) FROM exchange.trades") == 2
    assert served.health()["status"] == "ok"
    assert counted(served, "orders.submit", "done") == 3
    assert served.stop() == 0


def test_broker_away_for_a_while_loses_doubles_and_reorders_no_trade(served: Served, own_settings: Settings) -> None:
    async def until_stopped(client: Client) -> int:
        """Load without a pause; the broker goes away in the middle of it."""
        stopping = asyncio.create_task(asyncio.to_thread(stop_after, 0.4))
        for done in itertools.count():
            try:
                await asyncio.wait_for(trade_pairs(client, 1, done), 1.0)
            except (TimeoutError, NatsError, OSError):
                break
        await stopping
        return done

    def stop_after(seconds: float) -> None:
        time.sleep(seconds)
        assert stop_nats(own_settings.home)

    done = served.run(until_stopped)
    assert done > 10
    served.until(lambda: served.health().get("serving") is False, "it sees that the broker is away")
    assert served.health()["status"] == "degraded"
    ensure_nats(own_settings.home, talk=lambda line: None)
    served.until(lambda: served.health().get("serving") is True, "it serves again")
    served.run(lambda client: trade_pairs(client, 20))
    served.told()
    wanted = journalled_trades(served)
    assert len(wanted) >= done + 20
    assert told_trades(served) == wanted
    # Stopped and started again, it goes on from its cursor, and without one from what the stream holds.
    assert served.stop() == 0
    served.start()
    served.run(lambda client: trade_pairs(client, 3))
    served.told()
    assert told_trades(served) == journalled_trades(served)
    balances(served)


def test_killed_under_load_every_acknowledged_order_is_there_and_told_once(served: Served) -> None:
    acknowledged: list[dict[str, Any]] = []

    async def load(client: Client) -> None:
        async def one(user: int) -> None:
            for number in itertools.count():
                side = "sell" if (user + number) % 2 else "buy"
                message = order(f"u-{user}", side, "100", "0.001", clientOrderId=f"k-{user}-{number}")
                acknowledged.append(await ask(client, "orders.submit", message, 1.0))

        users = [asyncio.create_task(one(user)) for user in range(1, 9)]
        await asyncio.sleep(0.5)
        served.kill()
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)

    for _ in range(2):
        served.run(load)
        served.start()
    assert len(acknowledged) > 50
    placed = {reply["order"]["orderId"] for reply in acknowledged if reply["success"]}
    assert len(placed) == sum(reply["success"] for reply in acknowledged)
    trades = set(journalled_trades(served))
    engine = served.engine()
    keys = {str(key.seq) for references in engine.state.order_references for key in references.values()}
    assert placed <= keys
    assert {int(t["tradeId"]) for r in acknowledged if r["success"] for t in r["order"]["trades"]} <= trades
    served.told()
    assert told_trades(served) == journalled_trades(served)
    balances(served)


def test_bad_messages_are_refused_and_counted_and_the_service_goes_on(shared: Served) -> None:
    good = order("u-1", "sell", "100", "0.01")["order"]

    def with_field(**changes: Any) -> dict[str, Any]:
        return {"userId": "u-1", "order": {**good, **changes}}

    unparsed = {
        b"{": "malformed",
        b"[]": "malformed",
        b"\xff\xfe": "malformed",
        json.dumps(with_field()).encode("utf-16"): "malformed",
        b"\xef\xbb\xbf" + json.dumps(with_field()).encode(): "malformed",
        b"[" * 10_000: "malformed",
        b'{"userId": "u-1", "userId": "u-2", "order": {}}': "malformed",
        b'{"userId": "u-1", "order": {}, "x": ' + b" " * MAX_MESSAGE_BYTES + b"1}": "oversized",
        json.dumps({**with_field(), "admin": True}).encode(): "unknown_field",
        json.dumps(with_field(leverage="3")).encode(): "unknown_field",
        json.dumps({"userId": "u-1"}).encode(): "missing_field",
        json.dumps(with_field(price=100.0)).encode(): "invalid_field",
        json.dumps(with_field(price="1e2")).encode(): "invalid_field",
        json.dumps(with_field(price="NaN")).encode(): "invalid_field",
        json.dumps(with_field(price=None)).encode(): "missing_field",
        json.dumps(with_field(price="100.001")).encode(): "invalid_price",
        json.dumps(with_field(quantity="0.00001")).encode(): "invalid_quantity",
        json.dumps(with_field(quantity="0.000000001")).encode(): "invalid_quantity",
        json.dumps(with_field(quantity="9" * 30)).encode(): "too_large",
        json.dumps(with_field(quantity="9" * 60)).encode(): "invalid_quantity",
        json.dumps(with_field(symbol="ETH-USDT", quantity="9223372036854775.808")).encode(): "too_large",
        json.dumps(with_field(side="both")).encode(): "invalid_field",
        json.dumps(with_field(clientOrderId="x" * 65)).encode(): "invalid_field",
        json.dumps({**with_field(), "userId": True}).encode(): "invalid_field",
        json.dumps({**with_field(), "userId": 2**64}).encode(): "invalid_field",
    }
    rejected = {
        "unknown_account": order("nobody", "sell", "100", "0.01"),
        "unknown_market": with_field(symbol="DOGE-USDT"),
        "invalid_quantity": with_field(quantity="0"),
        "invalid_price": with_field(price="-1"),
        "insufficient_funds": with_field(quantity="1000"),
        "not_fillable": with_field(timeInForce="FOK"),
        "no_reference_price": order("u-1", "buy", None, "0.01", symbol="ETH-USDT"),
        "too_large": with_field(symbol="ETH-USDT", side="buy", price="90000000000000000", quantity="9000000000000000"),
    }

    async def talk(client: Client) -> None:
        before = shared.journalled()
        for data, reason in unparsed.items():
            reply = await ask(client, "orders.submit", data)
            assert (reply["success"], reply["error"]["reason"]) == (False, reason), (data[:120], reply)
            assert "sequence" not in reply["error"]
        assert shared.journalled() == before
        for count, (reason, message) in enumerate(rejected.items(), start=1):
            reply = await ask(client, "orders.submit", message)
            assert reply["error"] == {
                "reason": reason,
                "message": reason.replace("_", " "),
                "sequence": before + count,
            }, message
        negative = await ask(client, "orders.submit", with_field(quantity="-0.01"))
        assert negative["error"]["reason"] == "invalid_quantity"
        for user in ("nobody", 99):
            unknown = await ask(client, "ledger.balances.get", {"userId": user})
            assert unknown["error"]["reason"] == "unknown_account"
        resting = (await ask(client, "orders.submit", with_field(clientOrderId="mine")))["order"]["orderId"]
        for cancel, reason in (
            ({"userId": "u-2", "orderId": resting, "symbol": SYMBOL}, "not_the_owner"),
            ({"userId": "u-1", "orderId": "999999", "symbol": SYMBOL}, "unknown_order"),
            ({"userId": "u-1", "orderId": resting, "symbol": "ETH-USDT"}, "symbol_mismatch"),
            ({"userId": "u-1", "orderId": -1, "symbol": SYMBOL}, "invalid_field"),
        ):
            assert (await ask(client, "orders.cancel", cancel))["error"]["reason"] == reason
        again = await ask(client, "orders.submit", with_field(clientOrderId="mine"))
        assert (again["error"]["reason"], again["error"]["orderId"]) == ("duplicate_reference", resting)
        other = await ask(client, "orders.submit", with_field(clientOrderId="mine", quantity="0.02"))
        assert (other["error"]["reason"], other["error"]["orderId"]) == ("reference_conflict", resting)
        assert (await ask(client, "orders.submit", with_field()))["success"]

    shared.run(talk)
    balances(shared)
    assert counted(shared, "orders.submit", "malformed") == 7
    assert counted(shared, "orders.submit", "oversized") == 1
    assert counted(shared, "orders.cancel", "symbol_mismatch") == 1


def test_custody_moves_balances_once_however_often_it_is_told(shared: Served) -> None:
    async def talk(client: Client) -> None:
        stream = client.jetstream()
        deposit = {"userId": "u-1", "asset": "ETH", "amount": "20.000000000000000001", "txHash": "0xabc"}
        withdrawal = {"userId": "u-1", "asset": "ETH", "amount": "7", "withdrawalId": "w-1"}
        for subject, value in (
            ("custody.deposit.confirmed", deposit),
            ("custody.deposit.confirmed", deposit),
            ("custody.deposit.confirmed", {**deposit, "amount": "0.0000000000000000001", "txHash": "0xabd"}),
            ("custody.deposit.confirmed", {**deposit, "amount": "-5", "txHash": "0xabe"}),
            # More than NUMERIC(38,18) holds: taken in, it could not be settled, nor anything behind it.
            ("custody.deposit.confirmed", {**deposit, "asset": "USDT", "amount": "1" + "0" * 20, "txHash": "0xabf"}),
        ):
            await stream.publish(subject, json.dumps(value).encode())
        eth = {"asset": "ETH", "locked": "0", "staked": "0"}
        await until_balance(client, {**eth, "available": "20.000000000000000001", "inTransit": "0"})
        for _ in range(2):
            await stream.publish("custody.withdrawal.requested", json.dumps(withdrawal).encode())
        await until_balance(client, {**eth, "available": "13.000000000000000001", "inTransit": "7"})
        await asyncio.sleep(0.3)
        await until_balance(client, {**eth, "available": "13.000000000000000001", "inTransit": "7"})

    shared.run(talk)
    shared.settled()
    assert shared.book.value("SELECT count(*) FROM ledger.journals WHERE reference_id IN ('0xabc', 'w-1')") == 2
    assert counted(shared, "custody.deposit.confirmed", "rejected") == 2


async def until_balance(client: Client, wanted: dict[str, str]) -> None:
    for _ in range(100):
        found = (await ask(client, "ledger.balances.get", {"userId": "u-1", "asset": "ETH"}))["balances"]
        if found == [wanted]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError((found, wanted))


def test_book_follower_sees_a_missed_delta_by_sequence_or_hash_and_resyncs(shared: Served) -> None:
    async def talk(client: Client) -> None:
        async def snapshot() -> bytes:
            return (await client.request(f"marketdata.orderbook.snapshot.{SYMBOL}", b"", timeout=5)).data

        whole, lossy, wrong = BookFollower(snapshot), BookFollower(snapshot), BookFollower(snapshot)
        seen = 0

        async def on_delta(message: Any) -> None:
            nonlocal seen
            seen += 1
            await whole.on_delta(message.data)
            if seen % 7:
                await lossy.on_delta(message.data)
            if seen == 20:
                # A bit that flipped on the way: nothing but the hash can tell.
                wrong._bids["1.23"] = "9"
            await wrong.on_delta(message.data)

        for follower in (whole, lossy, wrong):
            await follower.start()
        await client.subscribe(f"marketdata.orderbook.{SYMBOL}", cb=on_delta)
        await client.flush()
        for number in range(110):
            side, price = ("buy", 90 - number % 5) if number % 2 else ("sell", 95 + number % 5)
            await ask(client, "orders.submit", order(f"u-{1 + number % 8}", side, str(price), "0.001"))
        await ask(client, "orders.submit", order("u-3", "buy", "97", "0.03"))
        await asyncio.to_thread(shared.told)
        await client.flush()
        await asyncio.sleep(0.2)
        truth = json.loads(await snapshot())
        assert truth["bids"]
        assert truth["asks"]
        assert whole.resyncs == 0
        # Fifteen deltas are kept from it; on a busy machine one snapshot makes up for several.
        assert lossy.resyncs > 1
        assert wrong.resyncs == 1
        for follower in (whole, wrong):
            assert follower.hash == truth["orderbookHash"]
            assert [list(level) for level in follower.bids] == truth["bids"]
        if seen % 7 == 0:
            await lossy.start()
        assert lossy.hash == truth["orderbookHash"]
        unknown = await client.request("marketdata.orderbook.snapshot.NO-SUCH", b"", timeout=5)
        assert b"unknown_market" in unknown.data

    shared.run(talk)


def test_postgres_away_for_a_while_trading_goes_on_and_settlement_catches_up(
    shared: Served, own_settings: Settings
) -> None:
    shared.run(lambda client: trade_pairs(client, 5))
    shared.settled()
    there = len(journalled_trades(shared))
    assert stop_postgres(own_settings.home)
    try:
        shared.run(lambda client: trade_pairs(client, 25))
        shared.until(lambda: shared.health().get("settlement") == "unreachable", "it sees that Postgres is away")
        assert shared.health()["serving"] is True
    finally:
        ensure_postgres(own_settings.home, talk=lambda line: None)
    balances(shared)
    # What other tests left in the book may take part, so the journal says how many there are.
    trades = len(journalled_trades(shared))
    assert trades >= there + 20
    assert shared.book.value("SELECT count(*) FROM exchange.trades") == trades
    assert shared.health()["status"] == "ok"


def test_a_second_exchange_on_the_same_broker_is_refused(shared: Served, own_settings: Settings) -> None:
    other = new_service(own_settings)
    with pytest.raises(AssertionError, match="ended"):
        other.start()
    assert other.process is not None
    assert other.process.returncode == 2


def test_killed_followers_are_started_again_and_go_on_where_they_were(shared: Served) -> None:
    assert shared.process is not None
    shared.run(lambda client: trade_pairs(client, 5))
    for child in psutil.Process(shared.process.pid).children():
        child.kill()
    shared.run(lambda client: trade_pairs(client, 5))
    shared.until(lambda: shared.health().get("follower_restarts") == 1, "they are started again")
    shared.told()
    assert told_trades(shared) == journalled_trades(shared)
    balances(shared)
