"""A suspension reaches the exchange that is being served: its orders go, and nothing is withdrawn any more."""

from __future__ import annotations

import threading
import time

import pytest
from nats.aio.client import Client

from engine.accounts.errors import NotYetError
from engine.store import accounts
from engine.store.account_history import verify_history
from engine.store.connect import connect, typed_errors
from tests.fixtures.exchange_service import Served, ask, order

WITHDRAWALS = (
    "SELECT count(*) FROM ledger.journals j JOIN ledger.ledger_entries e USING (posting_no, close_date)"
    " JOIN ledger.accounts a USING (account_id)"
    " WHERE j.kind = 'withdrawal' AND a.account = 'u-1' AND j.engine_seq > %s"
)


def resting(service: Served, number: int) -> int:
    """How many orders of an account rest, by the journal."""
    return sum(one.account == number for _, one in service.engine().resting())


def test_suspension_leaves_no_order_within_five_seconds_and_no_withdrawal_after_it(shared: Served) -> None:
    async def trade(client: Client) -> None:
        for n in range(8):
            reply = await ask(client, "orders.submit", order("u-1", "buy", f"{90 + n}", "0.001"))
            assert reply["success"]
        other = await ask(client, "orders.submit", order("u-2", "buy", "89", "0.001"))
        assert other["success"]

    shared.run(trade)
    assert resting(shared, 1) == 8
    stop = threading.Event()

    async def withdraw(client: Client) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            payload = {"userId": "u-1", "asset": "USDT", "amount": "1", "withdrawalId": f"w-{number}"}
            stream = client.jetstream()
            await stream.publish("custody.withdrawal.requested", str(payload).replace("'", '"').encode())

    thread = threading.Thread(target=lambda: shared.run(withdraw))
    thread.start()
    time.sleep(0.5)
    broadcast: list[float] = []
    refused: list[float] = []

    def broadcaster() -> None:
        """What custody does: look once more, then send, in one transaction."""
        with connect(shared.book.opened.url) as connection:
            while not stop.is_set():
                try:
                    with typed_errors():
                        accounts.require_may_withdraw(connection, 1)
                except NotYetError:
                    connection.rollback()
                    refused.append(time.monotonic())
                    time.sleep(0.01)
                    continue
                # Sent here, while the account is held still.
                broadcast.append(time.monotonic())
                connection.commit()

    sending = threading.Thread(target=broadcaster)
    sending.start()
    time.sleep(0.3)
    with shared.book.app() as app:
        accounts.transition(app, 1, "suspended", authority="compliance", actor="ann", reason="asked by the bank")
        committed = time.monotonic()
        deadline = committed + 5

        def acknowledged() -> bool:
            rows = accounts.details(app, 1)["obligations"]
            return all(row["acknowledged_at"] for row in rows if row["kind"] != "notify")

        while resting(shared, 1):
            assert time.monotonic() < deadline, "orders rest five seconds after the suspension"
            time.sleep(0.05)
        shared.until(acknowledged, "the exchange acknowledged", 20)
        time.sleep(0.5)
        stop.set()
        thread.join(20)
        sending.join(20)
        assert broadcast, "some were sent before"
        assert max(broadcast) <= committed
        assert refused
        shared.settled()
        by = {row["kind"]: row["acknowledged_by"] for row in accounts.details(app, 1)["obligations"]}
        frozen = int(str(by["freeze_withdrawals"]).rpartition(" ")[2])
        assert app.execute(WITHDRAWALS, (frozen,)).fetchone() == (0,), "none is sequenced after the freeze"
        assert app.execute(WITHDRAWALS, (0,)).fetchone() != (0,), "some were before"
    assert resting(shared, 2) == 1, "nobody else's order is touched"
    account = shared.engine().registry.accounts[1]
    assert (account.state.name, account.may_trade, account.may_withdraw) == ("SUSPENDED", False, False)

    async def try_again(client: Client) -> None:
        reply = await ask(client, "orders.submit", order("u-1", "buy", "90", "0.001"))
        assert reply["error"]["reason"] == "account_may_not_trade"

    shared.run(try_again)


def test_hold_reaches_the_served_exchange_and_its_release_too(shared: Served) -> None:
    with shared.book.app() as app:
        hold = accounts.open_hold(
            app, 3, "break", reference="break-7", reason="engine and ledger differ", opener="recon"
        )
        shared.until(lambda: bool(shared.engine().registry.accounts[3].holds), "the hold is in the engine", 10)
        accounts.release_hold(app, hold, who="ann", second="bea", reason="corrected")
        shared.until(lambda: not shared.engine().registry.accounts[3].holds, "the hold is gone", 10)
        verify_history(app)


def test_user_onboarded_in_the_database_trades_after_review_and_first_deposit(shared: Served) -> None:
    with shared.book.app() as app:
        number, made = accounts.onboard(app, "newcomer")
        assert made

        def engine_says() -> str:
            account = shared.engine().registry.accounts.get(number)
            return account.state.name if account else ""

        shared.until(lambda: engine_says() == "PENDING_KYC", "the engine knows the account", 10)

        async def deposit(client: Client, name: str) -> None:
            payload = f'{{"userId": "newcomer", "asset": "USDT", "amount": "50", "txHash": "{name}"}}'
            await client.jetstream().publish("custody.deposit.confirmed", payload.encode())

        shared.run(lambda client: deposit(client, "too-early"))
        shared.until(lambda: bool(accounts.unallocated(app)), "coins that came too early are listed", 10)
        accounts.transition(app, number, "kyc_approved", authority="kyc_provider", actor="sumsub")
        shared.until(lambda: engine_says() == "KYC_APPROVED", "the review reached the engine", 10)
        shared.run(lambda client: deposit(client, "in-time"))
        shared.until(lambda: accounts.find(app, "newcomer").state == "active", "the first deposit settled", 10)
        shared.until(lambda: engine_says() == "ACTIVE", "the engine knows", 10)

    async def trade(client: Client) -> None:
        reply = await ask(client, "orders.submit", order("newcomer", "buy", "40", "0.001"))
        assert reply["success"], reply

    shared.run(trade)


@pytest.fixture(autouse=True)
def _quiet(shared: Served) -> None:
    """Each test begins with everything settled."""
    shared.settled()
