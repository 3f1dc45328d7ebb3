"""An adjustment while the exchange is served: approved in the database, journalled and settled by the service."""

from __future__ import annotations

from decimal import Decimal

from engine.store import adjustments
from tests.fixtures.adjustments import approve_adjustment, approve_in, set_cap
from tests.fixtures.exchange_service import Served, ask


def status(served: Served, reference: str) -> str:
    with served.book.app() as connection:
        return adjustments.read(connection, int(reference.rsplit("/", 1)[1])).status


def test_approved_adjustment_reaches_the_served_engine_and_the_ledger(served: Served) -> None:
    served.settled()
    set_cap(served.book, "USDT")
    given = approve_adjustment(served.book, 1, "USDT", "2.5", "S-1")
    # Two that fit alone and not together, asked of the engine at once: it takes the first and refuses the other.
    with served.book.app(autocommit=False) as connection:
        taken = approve_in(connection, 2, "USDT", "-1000000", "S-2", "recovery")
        again = approve_in(connection, 2, "USDT", "-1000000", "S-3", "recovery")
        connection.commit()
    wanted = {given: "settled", taken: "settled", again: "refused"}
    served.until(lambda: {r: status(served, r) for r in wanted} == wanted, "the service answered all three")
    served.settled()

    async def balance(client: object) -> Decimal:
        reply = await ask(client, "ledger.balances.get", {"userId": "u-1", "asset": "USDT"})  # type: ignore[arg-type]
        return Decimal(reply["balances"][0]["available"])

    assert served.run(balance) == Decimal("1000002.5")
    assert served.book.value("SELECT balance FROM ledger.accounts WHERE account = 'u-1' AND asset = 'USDT'") == (
        Decimal("1000002.5")
    )
    assert served.book.value("SELECT balance FROM ledger.accounts WHERE account = 'u-2' AND asset = 'USDT'") == 0
    assert served.health()["status"] == "ok"
