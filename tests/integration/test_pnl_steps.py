"""Lots and P&L in the close: they carry, they are exact, and their gates bite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import psycopg
import pytest

from engine.close.policy import Policy
from engine.errors import GateError, UncheckedError
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import days
from engine.store.connect import translate
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook

BASE = Policy(reporting_currency="USDT", mark_max_age_s=86_400)


def reconciled(book: BookUnderTest, day: Any, **changes: object) -> None:
    assert book.close(day, **changes)[-1].step == "evidence_packs"


def rows(book: BookUnderTest, query: str, *args: object) -> list[dict[str, Any]]:
    with closing(book.admin()) as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(query.encode(), args or None).fetchall()


def history(book: BookUnderTest) -> Iterator[tuple[int, int, str, str, Decimal, Decimal]]:
    """Every event of a book in order: (close day, user, asset, what, quantity, value), read apart from the product."""
    found: list[tuple[Any, ...]] = []
    for t in rows(
        book,
        "SELECT t.*, m.base, m.quote, v.value, v.maker_fee_value, v.taker_fee_value FROM exchange.trades t"
        " JOIN exchange.markets m USING (market) LEFT JOIN positions.trade_values v USING (trade_id)",
    ):
        plain = t["quote"] == "USDT"
        value = t["quote_quantity"] if plain else t["value"]
        sides = [(t["maker_id"], t["taker_side"] == "sell"), (t["taker_id"], t["taker_side"] == "buy")]
        at = (t["engine_seq"], t["fill_index"])
        for user, buys in sides:
            found.append((*at, 0, t["close_date"], user, t["base"], "in" if buys else "out", t["quantity"], value))
            what = "out" if buys else "in"
            found.append((*at, 1, t["close_date"], user, t["quote"], what, t["quote_quantity"], value))
        for user, fee, of in (
            (t["maker_id"], t["maker_fee"], t["maker_fee_value"]),
            (t["taker_id"], t["taker_fee"], t["taker_fee_value"]),
        ):
            if fee:
                worth = abs(fee if plain else of)
                found.append((*at, 2, t["close_date"], user, t["quote"], "fee" if fee > 0 else "in", abs(fee), worth))
    for t in rows(book, "SELECT * FROM positions.transfers"):
        what = "in" if t["quantity"] > 0 else "out"
        line = (t["user_id"], t["asset"], what, abs(t["quantity"]), abs(t["value"]))
        found.append((t["engine_seq"], 0, 0, t["close_date"], *line))
    for line in sorted(found, key=lambda line: line[:3]):
        yield line[3:]


def cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("1e-6"), ROUND_HALF_UP)


def test_lots_and_gains_are_those_of_plain_fifo_over_the_whole_history(sealed_book: BookUnderTest) -> None:
    lots: defaultdict[tuple[int, str], list[list[Decimal]]] = defaultdict(list)
    realized: defaultdict[tuple[Any, int, str], Decimal] = defaultdict(Decimal)
    for day, user, asset, what, quantity, value in history(sealed_book):
        held = lots[user, asset]
        if what == "in":
            held.append([quantity, value])
            continue
        realized[day, user, asset] += value
        while quantity:
            taken = min(quantity, held[0][0])
            cost = held[0][1] if taken == held[0][0] else cents(held[0][1] * taken / held[0][0])
            realized[day, user, asset] -= cost
            held[0] = [held[0][0] - taken, held[0][1] - cost]
            quantity -= taken
            if not held[0][0]:
                held.pop(0)
    last = sealed_book.days[-1]
    kept = rows(
        sealed_book,
        "SELECT u.user_id, u.asset, l.quantity, l.cost FROM positions.unrealized_pnl u JOIN positions.lots l"
        " ON (l.close_date, l.version, l.user_id, l.asset) = (u.lots_date, u.lots_version, u.user_id, u.asset)"
        " WHERE u.close_date = %s ORDER BY l.lot_seq, l.lot_no",
        last,
    )
    found: defaultdict[tuple[int, str], list[list[Decimal]]] = defaultdict(list)
    for row in kept:
        found[row["user_id"], row["asset"]].append([row["quantity"], row["cost"]])
    expected = {key: held for key, held in lots.items() if held and key[1] != "USDT"}
    assert expected
    assert found == expected
    for row in rows(sealed_book, "SELECT * FROM positions.realized_pnl"):
        assert row["realized"] == realized[row["close_date"], row["user_id"], row["asset"]]
        assert row["asset"] != "USDT" or row["realized"] == 0


def test_lots_that_did_not_change_are_not_copied(sealed_book: BookUnderTest) -> None:
    first, last = sealed_book.days
    carried = rows(
        sealed_book, "SELECT * FROM positions.unrealized_pnl WHERE close_date = %s AND lots_date = %s", last, first
    )
    assert carried
    for row in carried:
        assert not rows(
            sealed_book,
            "SELECT FROM positions.lots WHERE close_date = %s AND user_id = %s AND asset = %s",
            last,
            row["user_id"],
            row["asset"],
        )


@pytest.mark.parametrize(
    ("gate", "poison"),
    [
        ("quantity_identity", "UPDATE positions.lots SET cost = cost + 0.000001"),
        ("quantity_identity", "UPDATE positions.lots SET quantity = quantity + 0.000001"),
        ("quantity_identity", "DELETE FROM positions.lots"),
        ("quantity_identity", "UPDATE positions.realized_pnl SET bought = bought + 0.00000001 WHERE bought > 0"),
        ("quantity_identity", "UPDATE positions.realized_pnl SET quantity = quantity + 1"),
        ("quantity_identity", "DELETE FROM positions.realized_pnl WHERE sold > 0"),
        (
            "value_identity",
            "UPDATE positions.realized_pnl SET proceeds = proceeds + 0.000001, realized = realized + 0.000001",
        ),
        ("value_identity", "UPDATE positions.realized_pnl SET cost = cost + 0.000001"),
        ("value_identity", "UPDATE positions.unrealized_pnl SET cost = cost + 1, unrealized = unrealized - 1"),
        ("value_identity", "UPDATE positions.unrealized_pnl SET value = value + 1, unrealized = unrealized + 1"),
        ("value_identity", "UPDATE positions.unrealized_pnl SET lots_date = lots_date - 1"),
        ("value_identity", "DELETE FROM positions.unrealized_pnl WHERE asset = 'BTC'"),
        ("value_identity", "UPDATE positions.transfers SET value = value + 0.000001"),
        ("value_identity", "UPDATE positions.trade_values SET maker_fee_value = maker_fee_value + 0.000001"),
    ],
)
def test_gate_bites(sealed_book: BookUnderTest, gate: str, poison: str) -> None:
    judge = f"SELECT (recon.gate_{gate}(%s, 1)).verdict".encode()
    for day in sealed_book.days:
        with sealed_book.admin() as owner, owner.transaction(force_rollback=True):
            assert owner.execute(judge, (day,)).fetchone() == ("pass",)
            joined = "AND" if " WHERE " in poison else "WHERE"
            changed = owner.execute(f"{poison} {joined} close_date = %s".encode(), (day,))
            assert changed.rowcount or "transfers" not in poison or day != sealed_book.days[0]
            if changed.rowcount:
                assert owner.execute(judge, (day,)).fetchone() == ("fail",), day


@pytest.mark.parametrize("method", ["lifo", "hifo", "lofo", "average"])
@pytest.mark.parametrize("fees", ["disposal", "capitalised"])
def test_identities_hold_under_every_method_and_treatment_of_fees(make_book: MakeBook, method: str, fees: str) -> None:
    if (method, fees) in {("lifo", "disposal"), ("lofo", "capitalised")}:
        pytest.skip("the other pairs cover it")
    book = make_book(SMALL, replace(BASE, lot_method=method, fee_treatment=fees))
    for day in book.days:
        reconciled(book, day)
    assert rows(book, "SELECT FROM positions.realized_pnl WHERE realized <> 0")


def test_deposits_at_the_closing_mark_where_the_policy_says_so(make_book: MakeBook) -> None:
    book = make_book(SMALL, replace(BASE, deposit_basis="closing_mark"))
    reconciled(book, book.days[0])
    found = rows(
        book, "SELECT t.mark, m.price FROM positions.transfers t JOIN market.mark_prices m USING (close_date, asset)"
        " WHERE t.term = 'deposit'"
    )  # fmt: skip
    assert found
    assert all(row["mark"] == row["price"] for row in found)


def test_event_without_a_mark_stops_the_day_where_the_policy_refuses_the_first_one(make_book: MakeBook) -> None:
    book = make_book(SMALL, replace(BASE, unpriced_basis="refuse"))
    with pytest.raises(UncheckedError, match=r"has events in BTC, ETH, .* with no fresh mark"):
        book.close(book.days[0])
    assert rows(book, "SELECT FROM positions.lots") == []


def test_balance_without_lots_is_an_error_that_names_the_user(book: BookUnderTest) -> None:
    first, second = book.days
    reconciled(book, first)
    with book.admin() as owner:
        victim = owner.execute(
            "DELETE FROM positions.unrealized_pnl WHERE (user_id, asset) = (SELECT user_id, asset"
            " FROM positions.unrealized_pnl ORDER BY 1, 2 LIMIT 1) RETURNING user_id, asset"
        ).fetchone()
    assert victim is not None
    with pytest.raises(GateError, match=f"user {victim[0]} has .* {victim[1]} on {first} and lots of 0"):
        book.close(second)


def test_lots_that_do_not_sum_to_their_position_are_an_error_that_names_the_user(book: BookUnderTest) -> None:
    first, second = book.days
    reconciled(book, first)
    with book.admin() as owner:
        owner.execute("UPDATE positions.lots SET quantity = quantity + 0.00000001 WHERE asset = 'BTC'")
    with pytest.raises(GateError, match=r"user [0-9]+: lots of BTC carried into"):
        book.close(second)


def test_policy_of_before_there_were_lots_closes_without_them(make_book: MakeBook) -> None:
    gates = tuple(gate for gate in BASE.required_gates if not gate.endswith("_identity"))
    book = make_book(SMALL, replace(BASE, required_gates=gates))
    reconciled(book, book.days[0])
    assert rows(book, "SELECT FROM positions.unrealized_pnl") == []


def close_up_to_reconciled(book: BookUnderTest, day: date) -> None:
    with book.closing(day) as context:
        for step in STEPS[: [step.name for step in STEPS].index("liability_trees")]:
            assert run_step(step, context).status == "succeeded"


def by_day(book: BookUnderTest, query: str) -> dict[date, Any]:
    return {row.pop("close_date"): row for row in rows(book, query)}


def test_changed_mark_recomputes_later_unsealed_days_in_order_and_only_them(make_book: MakeBook) -> None:
    book = make_book(replace(SMALL, days=3), BASE)
    first, second = book.days
    third = second + timedelta(days=1)
    reconciled(book, first)
    close_up_to_reconciled(book, second)
    close_up_to_reconciled(book, third)
    values = "SELECT close_date, sum(unrealized) AS u, sum(value) AS v FROM positions.unrealized_pnl GROUP BY 1"
    runs = "SELECT close_date, attempt FROM close.eod_runs WHERE step_name = 'lots'"
    before, attempts = by_day(book, values), by_day(book, runs)
    with book.admin() as owner:
        states = owner.execute("SELECT state FROM close.days WHERE close_date IN (%s, %s)", (second, third)).fetchall()
        assert states == [("reconciled",), ("reconciled",)]
        # As a new capture would: the hash is void, the mark another.
        owner.execute("UPDATE close.days SET state = 'cutoff', books_sha256 = NULL WHERE close_date = %s", (second,))
        doubled = "UPDATE market.mark_prices SET price = price * 2 WHERE close_date = %s AND asset = 'BTC'"
        assert owner.execute(doubled.encode(), (second,)).rowcount == 1
    for day in (second, third):
        reconciled(book, day)
    after, again = by_day(book, values), by_day(book, runs)
    assert after[first] == before[first]
    assert after[second]["v"] > before[second]["v"]
    assert after[third] == before[third]
    assert again[first] == attempts[first]
    assert again[second]["attempt"] > attempts[second]["attempt"]
    assert again[third]["attempt"] > attempts[third]["attempt"]
    moved = rows(book, "SELECT * FROM positions.restatements")
    assert {(row["close_date"], row["asset"], row["what"]) for row in moved} == {
        (second, "BTC", "value"),
        (second, "BTC", "unrealized"),
    }
    assert all(row["now"] > row["was"] for row in moved)
    assert len({row["user_id"] for row in moved}) * 2 == len(moved)


def test_opening_lots_sum_to_their_balance_and_what_is_held_has_a_mark(make_book: MakeBook) -> None:
    book = make_book(None)
    zero = book.days[0] - timedelta(days=1)
    lots = (
        "INSERT INTO positions.opening_lots VALUES (1, 'BTC', 0, '2020-01-01', 4, 100),"
        " (1, 'BTC', 1, '2021-01-01', 5, 7)"
    )
    balances = "INSERT INTO ledger.daily_balances SELECT %s, 1, account_id, 10 FROM ledger.accounts WHERE user_id > 0"
    with book.admin() as owner, owner.transaction(force_rollback=True):
        owner.execute("SELECT close.open_day(%s)", (zero,))
        owner.execute("INSERT INTO exchange.assets VALUES ('USDT', 1, 6), ('BTC', 2, 8)")
        owner.execute("INSERT INTO accounts.users (user_id, account) VALUES (1, 'u-1'), (2, 'u-2')")
        owner.execute("SELECT ledger.ensure_accounts('{u-1,u-1,u-2}', '{USDT,BTC,USDT}')")
        owner.execute("UPDATE close.days SET barrier_seq = 1, cutoff_at = %s WHERE close_date = %s", (zero, zero))
        owner.execute(balances.encode(), (zero,))
        for statement, said in (
            (lots, "user 1: opening lots of 9 BTC, an opening balance of 10"),
            ("SELECT 1", "have no mark for BTC"),
        ):
            with owner.transaction(force_rollback=True):
                owner.execute(statement.encode())
                with pytest.raises(psycopg.DatabaseError, match=said):
                    owner.execute("SELECT positions.write_genesis(%s)", (zero,))
        owner.execute("DELETE FROM ledger.daily_balances b USING ledger.accounts a"
            " WHERE a.account_id = b.account_id AND a.asset = 'BTC'")  # fmt: skip
        owner.execute("SELECT positions.write_genesis(%s)", (zero,))
        held = owner.execute("SELECT user_id, asset, quantity, cost, mark FROM positions.unrealized_pnl ORDER BY 1")
        assert held.fetchall() == [(1, "USDT", 10, 10, 1), (2, "USDT", 10, 10, 1)]


def test_rows_of_a_sealed_day_cannot_be_added_or_changed_by_the_application(sealed_book: BookUnderTest) -> None:
    day = sealed_book.days[0]
    lot = "INSERT INTO positions.lots VALUES (%s, %s, 1, 'BTC', 1, 1, %s, 1, 1, 1, 1)"
    with closing(sealed_book.app()) as app:
        for version in (1, 2):
            with pytest.raises(psycopg.DatabaseError) as refused:
                app.execute(lot, (day, version, day))
            assert isinstance(translate(refused.value), GateError)
        for statement in (
            "UPDATE positions.lots SET cost = 0",
            "DELETE FROM positions.realized_pnl",
            "INSERT INTO positions.unrealized_pnl DEFAULT VALUES",
            "SELECT positions.write_values('2026-03-02', 1)",
            "SELECT positions.write_genesis('2026-03-01')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())


def test_second_run_of_the_day_changes_nothing(sealed_book: BookUnderTest) -> None:
    before = sealed_book.state_digest()
    day = sealed_book.days[1]
    assert all(result.unchanged for result in sealed_book.close(day))
    assert sealed_book.state_digest() == before
    with sealed_book.app() as connection:
        gates = {gate.gate: gate.verdict for gate in days.gates(connection, day)}
    assert (gates["quantity_identity"], gates["value_identity"]) == ("pass", "pass")
