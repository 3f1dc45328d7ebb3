"""What users, custody and the database ask of a served exchange beside orders: done once, refused by name, outlived."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError

from engine.exchange import commands as cmd
from engine.exchange.events import TransferKind
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.requests import identity_of
from pipelines.local.nats import ensure_nats, stop_nats
from pipelines.local.postgres import ensure_postgres, stop_postgres
from pipelines.settings import Settings
from tests.fixtures.books import base_database
from tests.fixtures.exchange_service import SYMBOL, Served, ask, balances, counted, new_service, order

_keys = itertools.count(1)


def request(service: Served, kind: str, **payload: Any) -> str:
    """Have the database ask for a command, as a deciding function does."""
    key = f"{kind}-{next(_keys)}"
    with service.book.admin() as owner:
        owner.execute("SELECT exchange.request_command(%s, %s, %s)", (key, kind, json.dumps(payload)))
    return key


def answered(service: Served, key: str) -> str:
    query = "SELECT outcome FROM exchange.command_requests WHERE request_key = %s"
    service.until(lambda: service.book.value(query, key) is not None, f"{key} is answered")
    return str(service.book.value(query, key))


def journalled(service: Served, reference: str) -> int:
    with JournalReader(journal_path(service.directory)) as reader:
        names = [identity_of(record.command) for record in reader.records()]
    return sum(name is not None and name[1] == reference for name in names)


async def told(client: Client, subject: str, value: dict[str, Any]) -> None:
    await client.jetstream().publish(subject, json.dumps(value).encode())


async def balance(client: Client, user: str, asset: str) -> dict[str, str]:
    found = await ask(client, "ledger.balances.get", {"userId": user, "asset": asset})
    return {name: value for name, value in found["balances"][0].items() if name != "asset"}


async def until(client: Client, user: str, asset: str, **wanted: str) -> None:
    for _ in range(100):
        found = await balance(client, user, asset)
        if wanted.items() <= found.items():
            return
        await asyncio.sleep(0.05)
    raise AssertionError((found, wanted))


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.faults)])
def test_exchange_killed_while_it_journals_requests_journals_each_once(served: Served, rounds: int) -> None:
    keys = []
    chance = random.Random(rounds)
    for round_ in range(rounds):
        for user in range(1, 9):
            state = "suspended" if round_ % 2 else "active"
            keys.append(request(served, "set_account", user_id=user, state=state, holds=[]))
            keys.append(request(served, "reward", user_id=user, asset="DOGE", amount="1"))
        if round_ % 2:
            time.sleep(chance.random() * 0.6)
        else:
            served.until(lambda: journalled(served, keys[-16]) == 1, "the first is journalled")
        served.kill()
        served.start()
    assert [answered(served, key) for key in keys] == ["accepted", "unknown_asset"] * (len(keys) // 2)
    with JournalReader(journal_path(served.directory)) as reader:
        names = [name[1] for record in reader.records() if (name := identity_of(record.command)) is not None]
    assert [name for name in names if name in set(keys)] == keys, "each once, in the order of asking"
    invalid = request(served, "reward", user_id=1, asset="BTC", amount="0.0000000001")
    assert answered(served, invalid) == "invalid_request"
    assert journalled(served, invalid) == 0


def test_postgres_away_when_the_exchange_starts_orders_are_served_and_settled_once_it_is_there(
    own_settings: Settings,
) -> None:
    service = new_service(own_settings)
    service.start()
    key = request(service, "set_account", user_id=1, state="restricted", holds=[])
    assert answered(service, key) == "accepted"
    service.stop()
    servers = service.book.opened.servers
    assert stop_postgres(own_settings.home)
    service.environment = {
        "DATABASE_URL": servers.app.on(base_database(servers)).dsn(),
        "DATABASE_ADMIN_URL": servers.admin.on(base_database(servers)).dsn(),
        "NATS_URL": servers.nats_url,
    }
    try:
        service.start()

        async def talk(client: Client) -> None:
            assert (await ask(client, "orders.submit", order("u-2", "sell", "100", "0.01")))["success"]
            assert (await ask(client, "orders.submit", order("u-3", "buy", "100", "0.01")))["success"]

        service.run(talk)
        service.until(lambda: service.health().get("settlement") == "unreachable", "it sees that Postgres is away")
        assert service.health()["status"] == "degraded"
    finally:
        ensure_postgres(own_settings.home, talk=lambda line: None)
    try:
        key = request(service, "set_account", user_id=1, state="active", holds=[])
        assert answered(service, key) == "accepted"
        balances(service)
        assert service.health()["status"] == "ok"
    finally:
        service.end()


def test_broker_away_when_the_exchange_starts_it_is_degraded_and_serves_once_it_is_there(
    own_settings: Settings,
) -> None:
    service = new_service(own_settings)
    service.environment = {"NATS_URL": service.nats_url}
    assert stop_nats(own_settings.home)
    try:
        service.start(wait=False)
        service.until(lambda: service.health().get("settled_seq") == service.journalled(), "it settles")
        health = service.health()
        assert (health["status"], health["serving"]) == ("degraded", False)
        # What the database asks for needs no broker.
        assert answered(service, request(service, "cancel_all", user_id=1)) == "accepted"
        ensure_nats(own_settings.home, talk=lambda line: None)
        service.serving()
        placed = service.run(lambda client: ask(client, "orders.submit", order("u-1", "sell", "100", "0.01")))
        assert placed["success"]
        service.told()
        assert service.health()["status"] == "ok"
    finally:
        ensure_nats(own_settings.home, talk=lambda line: None)
        service.end()


def test_policy_that_ends_days_at_another_time_is_followed_without_a_restart(served: Served) -> None:
    first = served.book.opened.book.first_day
    assert served.health()["ends_at"] == f"{first + timedelta(days=1)}T00:00:00.000000Z"
    with served.book.admin() as owner:
        owner.execute(
            "INSERT INTO close.policies SELECT %s, p.policy || %s, repeat('0', 64), 'two people', 'an earlier close'"
            " FROM close.policy_on(%s) p",
            (first, '{"cutoff": "23:58 UTC"}', first),
        )
    served.until(lambda: served.health()["ends_at"] == f"{first}T23:58:00.000000Z", "the new cut-off is in force")


# Tests of a shared service come last: one exchange a NATS server.


def test_account_that_the_database_suspends_places_no_order_cancels_its_own_and_is_restored(shared: Served) -> None:
    async def resting(client: Client) -> str:
        placed = await ask(client, "orders.submit", order("u-4", "sell", "120", "0.01"))
        return str(placed["order"]["orderId"])

    mine = shared.run(resting)
    suspend = request(shared, "set_account", user_id=4, state="suspended", holds=["dispute"])
    assert answered(shared, suspend) == "accepted"

    async def suspended(client: Client) -> None:
        for message in (order("u-4", "sell", "120", "0.01"), order("u-4", "buy", None, "0.01")):
            refused = await ask(client, "orders.submit", message)
            assert refused["error"]["reason"] == "account_may_not_trade"
            assert refused["error"]["sequence"] == shared.journalled()
        amend = {"userId": "u-4", "orderId": mine, "symbol": SYMBOL, "price": "121", "quantity": "0.01"}
        assert (await ask(client, "orders.amend", amend))["error"]["reason"] == "account_may_not_trade"
        stake = {"userId": "u-4", "asset": "BTC", "amount": "1", "requestId": "s-4"}
        assert (await ask(client, "staking.stake", stake))["error"]["reason"] == "account_may_not_trade"
        assert (await ask(client, "orders.cancel", {"userId": "u-4", "orderId": mine, "symbol": SYMBOL}))["success"]
        await told(client, "custody.withdrawal.requested", withdrawal("u-4", "1", "w-4"))
        await asyncio.sleep(0.3)
        assert (await balance(client, "u-4", "BTC"))["inTransit"] == "0"

    shared.run(suspended)
    assert answered(shared, request(shared, "set_account", user_id=4, state="active", holds=[])) == "accepted"
    assert shared.run(resting)
    cancel = request(shared, "cancel_all", user_id=4)
    assert answered(shared, cancel) == "accepted"
    assert all(one.account != 4 for _, one in shared.engine().resting())


def withdrawal(user: str, amount: str, name: str, asset: str = "BTC") -> dict[str, Any]:
    return {"userId": user, "asset": asset, "amount": amount, "withdrawalId": name}


def test_reduce_keeps_the_place_amend_loses_it_and_cancel_all_leaves_nothing(shared: Served) -> None:
    async def talk(client: Client) -> None:
        placed = [
            (await ask(client, "orders.submit", order(user, "sell", "130", "0.03")))["order"]["orderId"]
            for user in ("u-5", "u-6", "u-5")
        ]
        head = {"userId": "u-5", "orderId": placed[0], "symbol": SYMBOL}
        reduced = await ask(client, "orders.reduce", {**head, "quantity": "0.01"})
        assert reduced["order"] | {"sequence": 0} == {
            "orderId": placed[0],
            "symbol": SYMBOL,
            "status": "open",
            "remainingQuantity": "0.02",
            "sequence": 0,
        }
        taken = await ask(client, "orders.submit", order("u-7", "buy", "130", "0.02", timeInForce="IOC"))
        assert shared.engine().order(int(placed[0])) is None, "the reduced order was first in line"
        assert taken["order"]["status"] == "filled"
        amended = await ask(
            client, "orders.amend", {**head, "userId": "u-6", "orderId": placed[1], "price": "130", "quantity": "0.03"}
        )
        assert (amended["order"]["status"], amended["order"]["price"], amended["order"]["trades"]) == (
            "open",
            "130",
            [],
        )
        await ask(client, "orders.submit", order("u-7", "buy", "130", "0.03", timeInForce="IOC"))
        engine = shared.engine()
        assert engine.order(int(placed[2])) is None, "the amended order went behind it"
        assert engine.order(int(placed[1])) is not None
        await ask(client, "orders.submit", order("u-7", "buy", "100", "0.01"))
        crossing = await ask(
            client, "orders.amend", {**head, "userId": "u-6", "orderId": placed[1], "price": "100", "quantity": "0.02"}
        )
        assert [fill["quantity"] for fill in crossing["order"]["trades"]] == ["0.01"]
        assert crossing["order"]["remainingQuantity"] == "0.01"
        for quantity, status, left in (("0.004", "open", "0.006"), ("5", "cancelled", "0.006")):
            done = await ask(
                client, "orders.reduce", {**head, "userId": "u-6", "orderId": placed[1], "quantity": quantity}
            )
            assert (done["order"]["status"], done["order"]["remainingQuantity"]) == (status, left)
        mine = [
            (await ask(client, "orders.submit", order("u-5", "buy", price, "0.01")))["order"]["orderId"]
            for price in ("80", "81")
        ]
        assert (await ask(client, "orders.cancel_all", {"userId": "u-5", "symbol": "ETH-USDT"}))["cancelled"] == []
        assert (await ask(client, "orders.cancel_all", {"userId": "u-5"}))["cancelled"] == mine
        assert (await ask(client, "orders.cancel_all", {"userId": "u-5"}))["cancelled"] == []

    shared.run(talk)
    balances(shared)


def test_stakes_withdrawals_and_reversed_deposits_move_balances_once_and_settle(shared: Served) -> None:
    async def talk(client: Client) -> None:
        stake = {"userId": "u-8", "asset": "BTC", "amount": "40", "requestId": "st-1"}
        assert (await ask(client, "staking.stake", stake))["success"]
        assert (await ask(client, "staking.stake", stake))["error"]["reason"] == "duplicate_reference"
        other = {**stake, "amount": "41"}
        assert (await ask(client, "staking.stake", other))["error"]["reason"] == "reference_conflict"
        assert (await ask(client, "staking.unstake", {**stake, "amount": "41"}))["error"]["reason"] == (
            "insufficient_funds"
        )
        assert (await ask(client, "staking.unstake", {**stake, "amount": "10"}))["success"]
        assert await balance(client, "u-8", "BTC") == {
            "available": "70",
            "locked": "0",
            "staked": "30",
            "inTransit": "0",
        }
        for name in ("wd-1", "wd-2"):
            for _ in range(2):
                await told(client, "custody.withdrawal.requested", withdrawal("u-8", "5", name))
        await until(client, "u-8", "BTC", available="60", inTransit="10")
        for _ in range(2):
            await told(client, "custody.withdrawal.confirmed", withdrawal("u-8", "5", "wd-1"))
            await told(client, "custody.withdrawal.failed", withdrawal("u-8", "5", "wd-2"))
        await told(client, "custody.withdrawal.confirmed", withdrawal("u-8", "6", "wd-1"))
        await until(client, "u-8", "BTC", available="65", inTransit="0")
        # 20 come, 15 of them and 65 of before rest in an order; then the 20 are gone.
        deposit = {"userId": "u-8", "asset": "BTC", "amount": "20", "txHash": "tx-gone"}
        await told(client, "custody.deposit.confirmed", deposit)
        await until(client, "u-8", "BTC", available="85")
        await ask(client, "orders.submit", order("u-8", "sell", "140", "80"))
        for _ in range(2):
            await told(client, "custody.deposit.reversed", deposit)
        await until(client, "u-8", "BTC", available="65", locked="0")
        # And 30 that were staked before they were gone: 95 are there beside the stake of 30.
        await told(client, "custody.deposit.confirmed", {**deposit, "amount": "30", "txHash": "tx-spent"})
        await until(client, "u-8", "BTC", available="95")
        assert (await ask(client, "staking.stake", {**stake, "amount": "85", "requestId": "st-2"}))["success"]
        await told(client, "custody.deposit.reversed", {**deposit, "amount": "30", "txHash": "tx-spent"})
        await until(client, "u-8", "BTC", available="0", staked="115")
        await told(client, "custody.withdrawal.requested", withdrawal("u-8", "1", "wd-3", "USDT"))
        await asyncio.sleep(0.3)
        assert (await balance(client, "u-8", "USDT"))["inTransit"] == "0"

    shared.run(talk)
    balances(shared)
    engine = shared.engine()
    assert engine.owed(2) == 20 * 10**8
    assert engine.registry.accounts[8].holds == cmd.Hold.DISPUTE
    assert engine.seen_transfer(TransferKind.WITHDRAWAL_CONFIRMED, "wd-1") is not None
    with shared.book.admin() as owner:
        assert owner.execute(
            "SELECT balance::text FROM ledger.accounts WHERE account = 'customer_receivable:u-8'"
        ).fetchall() == [("-20.000000000000000000",)]
        assert owner.execute(
            "SELECT kind, reference FROM accounts.holds WHERE user_id = 8 AND released_at IS NULL"
        ).fetchall() == [("dispute", "deposit_reversed:tx-spent")]


def test_every_subject_refuses_what_it_cannot_read_before_sequencing_and_goes_on(shared: Served) -> None:
    amend = {"userId": "u-1", "orderId": "1", "symbol": SYMBOL, "price": "1", "quantity": "1"}
    reduce = {"userId": "u-1", "orderId": "1", "symbol": SYMBOL, "quantity": "1"}
    stake = {"userId": "u-1", "asset": "BTC", "amount": "1", "requestId": "x"}
    unparsed: list[tuple[str, Any, str]] = [
        ("orders.amend", b"", "malformed"),
        ("orders.amend", {**amend, "reserve": "1"}, "unknown_field"),
        ("orders.amend", {**amend, "price": 1}, "invalid_field"),
        ("orders.amend", {**amend, "price": "0.001"}, "invalid_price"),
        ("orders.amend", {**amend, "orderId": "1.5"}, "invalid_field"),
        ("orders.reduce", {**amend}, "unknown_field"),
        ("orders.reduce", {**reduce, "quantity": "0.00001"}, "invalid_quantity"),
        ("orders.reduce", {**reduce, "quantity": "9" * 30}, "too_large"),
        ("orders.cancel_all", {"userId": "u-1", "market": SYMBOL}, "unknown_field"),
        ("orders.cancel_all", {"userId": ["u-1"]}, "invalid_field"),
        ("orders.cancel_all", b'{"userId": "u-1", "userId": "u-2"}', "malformed"),
        ("staking.stake", {**stake, "amount": "-1"}, "invalid_amount"),
        ("staking.stake", {**stake, "amount": "0"}, "invalid_amount"),
        ("staking.stake", {**stake, "amount": "0.000000001"}, "invalid_amount"),
        ("staking.stake", {**stake, "amount": "9" * 31, "asset": "ETH"}, "invalid_amount"),
        ("staking.unstake", {**stake, "requestId": "no spaces"}, "invalid_field"),
        ("staking.unstake", {"userId": "u-1", "asset": "BTC", "amount": "1"}, "missing_field"),
    ]
    rejected: list[tuple[str, dict[str, Any], str]] = [
        ("orders.amend", amend, "unknown_order"),
        ("orders.amend", {**amend, "symbol": "NO-SUCH"}, "unknown_order"),
        ("orders.amend", {**amend, "userId": "nobody"}, "unknown_account"),
        ("orders.reduce", reduce, "unknown_order"),
        ("orders.cancel_all", {"userId": "nobody"}, "unknown_account"),
        ("orders.cancel_all", {"userId": "u-1", "symbol": "NO-SUCH"}, "unknown_market"),
        ("staking.stake", {**stake, "asset": "NO-SUCH"}, "unknown_asset"),
        # 18 decimals far beyond 64 bits: read, journalled and refused for what it is.
        (
            "staking.stake",
            {**stake, "asset": "ETH", "amount": "99999999999999999999.000000000000000001"},
            "insufficient_funds",
        ),
        ("staking.unstake", stake, "insufficient_funds"),
    ]

    async def talk(client: Client) -> None:
        before = shared.journalled()
        for subject, message, reason in unparsed:
            reply = await ask(client, subject, message)
            assert reply["error"]["reason"] == reason, (subject, message, reply)
            assert "sequence" not in reply["error"]
        assert shared.journalled() == before
        for count, (subject, message, reason) in enumerate(rejected, start=1):
            reply = await ask(client, subject, message)
            assert (reply["error"]["reason"], reply["error"]["sequence"]) == (reason, before + count), (message, reply)
        mine = await ask(client, "orders.submit", order("u-1", "buy", "70", "0.01"))
        for subject, message in (("orders.amend", amend), ("orders.reduce", reduce)):
            theirs = {**message, "userId": "u-2", "orderId": mine["order"]["orderId"], "quantity": "0.005"}
            assert (await ask(client, subject, theirs))["error"]["reason"] == "not_the_owner"
            elsewhere = {**theirs, "symbol": "ETH-USDT"}
            assert (await ask(client, subject, elsewhere))["error"]["reason"] == "symbol_mismatch"
        for quantity in ("0", "-0.01"):
            for subject, message in (("orders.amend", amend), ("orders.reduce", reduce)):
                own = {**message, "orderId": mine["order"]["orderId"], "quantity": quantity}
                assert (await ask(client, subject, own))["error"]["reason"] == "invalid_quantity"
        # What an operator decides is not asked for here: nobody answers.
        for subject in ("accounts.set", "orders.adjust", "command_request", "set_account"):
            with pytest.raises(NoRespondersError):
                await client.request(subject, b"{}", timeout=1)
        for subject in ("custody.withdrawal.confirmed", "custody.withdrawal.failed", "custody.deposit.reversed"):
            await told(client, subject, {"userId": "u-1", "asset": "BTC"})
            await told(
                client,
                subject,
                {"userId": "u-1", "asset": "BTC", "amount": "1", "txHash": "never"}
                | ({} if "deposit" in subject else {"withdrawalId": "never"}),
            )

    rejected_before = counted(shared, "custody.deposit.reversed", "rejected")
    shared.run(talk)
    assert counted(shared, "staking.stake", "invalid_amount") == 4
    shared.until(
        lambda: (
            counted(shared, "custody.deposit.reversed", "missing_field") == 1
            and counted(shared, "custody.deposit.reversed", "rejected") == rejected_before + 1
            and counted(shared, "custody.withdrawal.failed", "unknown_field") == 1
        ),
        "custody's messages are read",
    )
    balances(shared)
