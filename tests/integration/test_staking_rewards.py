"""Staking rewards: accrued over stake-time in D, asked for by its seal, credited in D+1, never beyond the pot."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from engine.exchange import commands as cmd
from engine.money import to_units
from engine.steps import control_totals
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import reopening
from engine.store.connect import connect
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.staking import POLICY, QTRA, at, day, send, staking_book, trade
from tests.property.test_pro_rata import model

E18, HOUR = 10**18, 3600 * 10**6
FUNDED = Decimal("0.06")
"""A fifth of 0.15 USDT of fees, at 0.5 USDT a QTRA."""
STAKES = [
    (at(0, 6), cmd.Stake(1, QTRA, 300 * E18, "s1")),
    (at(0, 12), cmd.Stake(2, QTRA, 100 * E18, "s2")),
    (at(0, 18), cmd.Unstake(2, QTRA, 50 * E18, "s3")),
    (at(0, 20), cmd.Stake(3, QTRA, 200 * E18 + 1, "s4", at(0, -5))),
    (at(0, 21), cmd.Stake(4, QTRA, 10 * E18, "s5")),
    (at(0, 21), cmd.Unstake(4, QTRA, 10 * E18, "s6", at(0, 20))),
]
STAKE_TIME = {1: 300 * E18 * 18 * HOUR, 2: (600 + 300) * E18 * HOUR, 3: (200 * E18 + 1) * 24 * HOUR}


def rewards(book: BookUnderTest, number: int = 0, version: int = 1) -> dict[int, int]:
    with book.app() as connection:
        rows = connection.execute(
            "SELECT user_id, amount FROM ledger.reward_accruals WHERE close_date = %s AND version = %s",
            (day(number), version),
        ).fetchall()
    return {user: to_units(amount, 18, record="reward") for user, amount in rows}


def pot(book: BookUnderTest, number: int, version: int = 1) -> tuple[Decimal, ...]:
    """Opening, funded, paid and closing of a day's pot."""
    with book.app() as connection:
        row = connection.execute(
            "SELECT opening, funded, paid, closing FROM ledger.rewards_pots WHERE close_date = %s AND version = %s",
            (day(number), version),
        ).fetchone()
    assert row is not None
    return row


def requests(book: BookUnderTest) -> list[tuple[str, dict[str, str]]]:
    with book.app() as connection:
        return connection.execute(
            "SELECT reference, payload FROM exchange.command_requests WHERE kind = 'reward' ORDER BY request_no"
        ).fetchall()


def house(book: BookUnderTest, account: str) -> Decimal:
    found = book.value("SELECT balance FROM ledger.accounts WHERE account = %s AND asset = 'QTRA'", account)
    return found if isinstance(found, Decimal) else Decimal(0)


def credit_what_was_asked(book: BookUnderTest, number: int) -> None:
    """Journal the rewards asked for, as a service does."""
    commands = [
        (at(number, 1), cmd.Reward(int(p["user_id"]), QTRA, to_units(Decimal(p["amount"]), 18, record=key), key))
        for key, p in requests(book)
    ]
    send(book, commands)


def test_reward_is_the_share_of_stake_time_expensed_today_and_credited_tomorrow(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    send(book, STAKES)
    assert book.close(day(0))[-1].step == "evidence_packs"
    paid = int(FUNDED * E18)
    assert rewards(book) == model(paid, STAKE_TIME)
    assert pot(book, 0) == (0, FUNDED, FUNDED, 0)
    assert house(book, "revenue_router") == -FUNDED
    assert house(book, "rewards_payable") == FUNDED
    asked = requests(book)
    assert [key for key, _ in asked] == [f"reward:{day(0)}:{user}:1" for user in (1, 2, 3)]
    with book.app() as connection:
        positions = connection.execute(
            "SELECT user_id, closing FROM positions.staking_positions WHERE close_date = %s ORDER BY 1", (day(0),)
        ).fetchall()
    assert positions == [(1, 300), (2, 50), (3, Decimal("200.000000000000000001")), (4, 0)]

    send(book, trade(1, 0.1))
    credit_what_was_asked(book, 1)
    assert book.close(day(1))[-1].step == "evidence_packs"
    second = sum(rewards(book, 1).values())
    assert house(book, "rewards_payable") == Decimal(second).scaleb(-18)
    assert pot(book, 1) == (0, FUNDED, FUNDED, 0)
    share = rewards(book)[1]
    balance = book.value("SELECT balance FROM ledger.accounts WHERE account = 'u-1' AND asset = 'QTRA'")
    assert balance == Decimal(1000 - 300 - 200) + Decimal(share).scaleb(-18)
    days = {1: 300 * E18, 2: 50 * E18, 3: 200 * E18 + 1}
    assert rewards(book, 1) == model(paid, {user: units * 24 * HOUR for user, units in days.items()})


def test_pot_without_stakers_is_left_untouched_and_carries_over(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    book.close(day(0))
    assert (rewards(book), pot(book, 0)) == ({}, (0, FUNDED, 0, FUNDED))
    send(book, [(at(1, 1), cmd.Stake(5, QTRA, 1, "s")), *trade(1, 2)])
    book.close(day(1))
    # Five per million of one smallest unit: what is staked caps what is paid.
    assert pot(book, 1) == (FUNDED, FUNDED, Decimal(1).scaleb(-18), 2 * FUNDED - Decimal(1).scaleb(-18))
    assert rewards(book, 1) == {5: 1}


@pytest.mark.parametrize(
    ("changes", "paid"),
    [
        ({"reward_cap": "0.01"}, Decimal("0.01")),
        ({"staking_payout_ppm": 500_000}, FUNDED / 2),
        ({"reward_cap_ppm": 100}, Decimal("0.03")),
        ({"staking_funding_ppm": 0}, Decimal(0)),
    ],
    ids=["absolute cap", "half the pot", "share of the stake", "an empty pot"],
)
def test_caps_bound_a_payout_and_the_rest_stays_in_the_pot(
    make_book: MakeBook, changes: dict[str, object], paid: Decimal
) -> None:
    book = staking_book(make_book, replace(POLICY, **changes))  # type: ignore[arg-type]
    send(book, [(at(0, 6), cmd.Stake(1, QTRA, 300 * E18, "s1"))])
    book.close(day(0))
    assert pot(book, 0)[2] == paid
    assert pot(book, 0)[3] == pot(book, 0)[1] - paid
    assert sum(rewards(book).values()) == int(paid * E18)
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", day(0)) == "sealed"


def test_ten_accruals_have_one_effect(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    send(book, STAKES)
    with book.closing(day(0)) as context:
        for step in STEPS[: STEPS.index(control_totals.STEP)]:
            run_step(step, context)
        before = book.state_digest()
        with book.app() as connection:
            for _ in range(10):
                again = "SELECT journals FROM ledger.write_reward_accruals(%s, %s, 'again')"
                assert connection.execute(again.encode(), (day(0), context.epoch)).fetchone() == (0,)
    assert book.state_digest() == before


def test_a_reopened_day_that_owes_more_asks_for_the_difference(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    send(book, STAKES)
    book.close(day(0))
    first = rewards(book)
    credit_what_was_asked(book, 1)
    with connect(book.opened.url, autocommit=True) as connection:
        reopening.reopen(connection, day(0), reason="the price was wrong", maker="ada", checker="ben")
    with book.admin() as owner:
        owner.execute("ALTER TABLE exchange.trades DISABLE TRIGGER USER")
        owner.execute("UPDATE exchange.trades SET price = 0.25")
    book.close(day(0))
    assert pot(book, 0, 2) == (0, 2 * FUNDED, 2 * FUNDED, 0)
    second = rewards(book, version=2)
    assert sum(second.values()) == 2 * sum(first.values())
    due = {
        int(payload["user_id"]): to_units(Decimal(payload["amount"]), 18, record=key)
        for key, payload in requests(book)
        if key.endswith(":2")
    }
    assert due == {user: second[user] - first[user] for user in second}
    assert house(book, "rewards_payable") == FUNDED


def test_reward_that_no_day_accrued_stops_the_next_one(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    send(book, [(at(0, 3), cmd.Reward(5, QTRA, 7 * E18, "typed-by-hand"))])
    results = book.close(day(0))
    assert (results[-1].step, results[-1].status) == ("control_totals", "failed")
    with book.admin() as owner:
        row = owner.execute("SELECT verdict, detail FROM recon.gate_rewards_as_accrued(%s, 1)", (day(0),)).fetchone()
    assert row is not None
    assert row[0] == "fail"
    assert row[1]["shown"] == [{"reference": "typed-by-hand", "account": "u-5", "amount": "7"}]
    assert row[1]["payable_overdrawn"] == [{"asset": "QTRA", "balance": "-7"}]
    # It stands in the journal for good: two people may let the day seal over it, and the verdict stays a failure.
    with book.admin() as owner:
        owner.execute(
            "SELECT recon.waive('rewards_as_accrued', 'book', %s, 'QTRA', 7, 'credited by hand', 'ada', 'ben',"
            " clock_timestamp() + interval '1 day')",
            (day(0),),
        )
    book.close(day(0))
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", day(0)) == "sealed"
    verdict = "SELECT DISTINCT verdict FROM recon.verdicts WHERE gate = 'rewards_as_accrued'"
    assert book.value(verdict) == "fail"


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE ledger.reward_accruals SET amount = amount + 0.001 WHERE user_id = 2", "shares_not_of_stake_time"),
        ("UPDATE positions.staking_positions SET closing = closing + 1 WHERE user_id = 1", "stakes_not_of_journals"),
        ("DELETE FROM ledger.reward_accruals WHERE user_id = 3", "pots_off"),
    ],
)
def test_gate_sees_a_share_a_stake_and_a_sum_that_were_changed(make_book: MakeBook, statement: str, what: str) -> None:
    book = staking_book(make_book)
    send(book, STAKES)
    book.close(day(0))
    with book.admin() as owner:
        gate = f"SELECT verdict, detail ->> '{what}' FROM recon.gate_rewards_as_accrued(%s, 1)"
        clean = owner.execute(gate.encode(), (day(0),)).fetchone()
        assert clean in (("pass", "0"), ("pass", "[]"))
        owner.execute(statement.encode())
        found = owner.execute(gate.encode(), (day(0),)).fetchone()
    assert found is not None
    assert found[0] == "fail"
    assert found[1] not in ("0", "[]")


def test_payout_beyond_the_pot_is_refused_by_the_database(make_book: MakeBook) -> None:
    book = staking_book(make_book)
    send(book, STAKES)
    book.close(day(0))
    with book.admin() as owner:
        with pytest.raises(psycopg.errors.CheckViolation, match="rewards_pots"):
            owner.execute("UPDATE ledger.rewards_pots SET paid = paid + 1, closing = closing - 1, opening = opening")
        with pytest.raises(psycopg.Error, match=r"the rewards pot would hold -1 QTRA") as refused:
            owner.execute("UPDATE ledger.accounts SET balance = -1 WHERE account = 'rewards_pot'")
        assert refused.value.sqlstate == "CL036"
