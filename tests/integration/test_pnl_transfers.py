"""A day that has every kind of transfer: rewards, adjustments both ways, a deposit taken back in part, a withdrawal."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from engine.exchange import commands as cmd
from engine.exchange.events import Side
from engine.money import to_units
from tests.fixtures.adjustments import approve_adjustment, set_cap
from tests.fixtures.books import MakeBook
from tests.fixtures.staking import QTRA, at, day, send, staking_book

E18 = 10**18
COLUMNS = (
    "bought, sold, fees, deposited, deposited_value, withdrawn, withdrawn_value, rewarded, rewarded_value, adjusted,"
    " adjusted_value, proceeds, disposed_cost, quantity, cost"
)


def worth(quantity: Decimal) -> Decimal:
    """At 0.8 USDT a QTRA, the price of the day."""
    return (quantity * Decimal("0.8")).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def test_rewards_adjustments_and_reversed_deposits_are_lots_and_terms_of_both_identities(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    unit = Decimal(1).scaleb(-18)
    send(
        book,
        [(at(0, 6), cmd.Stake(1, QTRA, 300 * E18, "s1")), (at(0, 20), cmd.Stake(3, QTRA, 200 * E18 + 1, "s3"))],
    )
    assert book.close(day(0))[-1].step == "evidence_packs"
    asked = (
        book.admin()
        .execute(
            "SELECT reference, (payload ->> 'user_id')::bigint, (payload ->> 'amount')::numeric"
            " FROM exchange.command_requests WHERE kind = 'reward'"
        )
        .fetchall()
    )
    reward = {user: amount for _, user, amount in asked}
    assert reward.keys() == {1, 3}
    set_cap(book, "QTRA")
    taken = approve_adjustment(book, 5, "QTRA", "-10", "a", "recovery")
    given = approve_adjustment(book, 4, "QTRA", "7.000000000000000001", "b")
    free = 900 * E18 - 1 + to_units(reward[3], 18, record="reward")
    send(
        book,
        [
            (at(1, 0.1), cmd.NewOrder(1, 1, Side.SELL, 80, 100_000, cmd.TimeInForce.GTC)),
            (at(1, 0.1), cmd.NewOrder(2, 1, Side.BUY, 80, 100_000, cmd.TimeInForce.IOC)),
            *((at(1, 1), cmd.Reward(user, QTRA, to_units(amount, 18, record=key), key)) for key, user, amount in asked),
            (at(1, 2), cmd.Adjust(5, QTRA, -10 * E18, taken)),
            (at(1, 2), cmd.Adjust(4, QTRA, 7 * E18 + 1, given)),
            # What is left of it when its chain takes it back: 40 of 100.
            (at(1, 3), cmd.Deposit(3, QTRA, 100 * E18, "late")),
            (at(1, 3), cmd.Stake(3, QTRA, free - 40 * E18, "s4")),
            (at(1, 4), cmd.DepositReversed(3, QTRA, 100 * E18, "late")),
            (at(1, 5), cmd.Withdrawal(4, QTRA, 500 * E18, "w")),
            (at(1, 5), cmd.Withdrawal(4, QTRA, 1 * E18, "never")),
            (at(1, 6), cmd.WithdrawalConfirmed(4, QTRA, 500 * E18, "w")),
        ],
    )
    assert book.close(day(1))[-1].step == "evidence_packs"
    with book.admin() as owner:
        rows = owner.execute(
            f"SELECT user_id, {COLUMNS} FROM positions.realized_pnl WHERE close_date = %s AND asset = 'QTRA'".encode(),
            (day(1),),
        ).fetchall()
        gates = owner.execute(
            "SELECT gate, verdict FROM recon.verdicts WHERE close_date = %s AND gate LIKE '%%identity'", (day(1),)
        ).fetchall()
    assert set(gates) == {("quantity_identity", "pass"), ("value_identity", "pass")}
    found = {row[0]: row[1:] for row in rows}
    r1, r3, seven = reward[1], reward[3], 7 + unit
    assert found == {
        # Bought 100 at 0.5 on the day before, sold 100 of that cost for 80.
        1: (0, 100, 0, 0, 0, 0, 0, r1, worth(r1), 0, 0, 80, 50, 800 + r1, 400 + worth(r1)),
        2: (100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1200, 630),
        # 100 came at 0.8; 40 of the oldest went at 0.8, and 60 are owed.
        3: (0, 0, 0, 60, 48, 0, 0, r3, worth(r3), 0, 0, 32, 20, 1060 + r3, 560 + worth(r3)),
        4: (0, 0, 0, 0, 0, 500, 400, 0, 0, seven, worth(seven), 400, 250, 507 + unit, 250 + worth(seven)),
        5: (0, 0, 0, 0, 0, 0, 0, 0, 0, -10, -8, 8, 5, 990, 495),
    }
    owed = "SELECT balance FROM ledger.accounts WHERE account = 'customer_receivable:u-3' AND asset = 'QTRA'"
    assert book.value(owed) == -60
