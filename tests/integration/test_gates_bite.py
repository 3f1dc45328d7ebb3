"""A gate that bites: what does not hold, or could not be checked, does not seal, whichever way it is tried."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import psycopg
import pytest

from engine.close.policy import Policy
from engine.errors import GateError, UncheckedError
from engine.exchange import history
from engine.exchange.events import Trade
from engine.exchange.journal import journal_path
from engine.sim.demo import load_demo
from engine.steps import cutoff, seals
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store.settlement import Settler
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook
from tests.fixtures.seals import BEFORE_SEAL, run_to, state

DECIMALS = {"USDT": 6, "ETH": 18}


def run_row(book: BookUnderTest, day: date, step: str) -> tuple[object, ...]:
    with book.admin() as connection:
        row = connection.execute(
            "SELECT status, coalesce(error, '') FROM close.eod_runs WHERE close_date = %s AND step_name = %s",
            (day, step),
        ).fetchone()
    assert row is not None
    return row


def seal_alone(book: BookUnderTest, day: date) -> None:
    with book.closing(day) as context:
        run_step(seals.STEP, context)


def richest(book: BookUnderTest, day: date, asset: str) -> str:
    return str(
        book.value(
            "SELECT account FROM exchange.engine_balances WHERE close_date = %s AND asset = %s AND account LIKE 'u-%%'"
            " AND available > 0 ORDER BY available DESC, account LIMIT 1",
            day,
            asset,
        )
    )


# One smallest unit.


@pytest.mark.parametrize("asset", DECIMALS)
def test_one_smallest_unit_stops_the_day_freezes_its_user_alone_and_a_recapture_seals_it(
    book: BookUnderTest, asset: str
) -> None:
    day, following = book.days
    unit = Decimal(1).scaleb(-DECIMALS[asset])
    run_to(book, day, "engine_balances")
    user = richest(book, day, asset)
    with book.admin() as owner:
        owner.execute(
            "UPDATE exchange.engine_balances SET available = available + %s"
            " WHERE close_date = %s AND account = %s AND asset = %s",
            (unit, day, user, asset),
        )

    for _ in range(2):
        last = book.close(day)[-1]
        assert (last.step, last.status) == ("engine_vs_ledger", "failed")
        (found,) = last.metadata["breaks"]
        assert (found["account"], found["asset"], Decimal(found["difference"])) == (user, asset, unit)
        assert Decimal(found["actual"]) - Decimal(found["expected"]) == unit
    assert state(book, day) == "cutoff"
    assert book.value("SELECT count(*) FROM recon.breaks") == 1
    with book.admin() as connection:
        held = connection.execute(
            "SELECT account, kind, released_at IS NULL FROM accounts.holds JOIN accounts.users USING (user_id)"
        ).fetchall()
    assert held == [(user, "break", True)]

    with pytest.raises(GateError, match=f"{day} is cutoff, not reconciled"):
        seal_alone(book, day)
    with pytest.raises(GateError, match=f"predecessor {day} is cutoff"):
        book.close(following)
    assert (state(book, day), state(book, following)) == ("cutoff", "open")
    assert book.value("SELECT count(*) FROM close.seals WHERE kind = 'day'") == 0
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.recon.failed'") == 1

    assert book.close(day, recapture=True)[-1].status == "succeeded"
    assert state(book, day) == "sealed"
    assert book.value("SELECT state || ' ' || reason_code FROM recon.breaks") == "corrected capture_re_read"
    assert book.close(following)[-1].status == "succeeded"

    # The hold is lifted by two people, not by the recapture.
    assert book.value("SELECT count(*) FROM accounts.holds WHERE released_at IS NULL") == 1
    with book.admin() as owner:
        number = book.value("SELECT break_id FROM recon.breaks")
        for who, second in (("ann", "ann"), ("ann", ""), ("", "bea")):
            with pytest.raises(psycopg.Error, match="two different people"):
                owner.execute("SELECT recon.close_break(%s, %s, %s, 'checked')", (number, who, second))
        owner.execute("SELECT recon.close_break(%s, 'ann', 'bea', 'checked')", (number,))
    assert book.value("SELECT released_by || ' and ' || released_second FROM accounts.holds") == "ann and bea"


def test_house_fees_off_by_one_unit_stop_the_day_and_freeze_nobody(book: BookUnderTest) -> None:
    day = book.days[0]
    run_to(book, day, "engine_balances")
    with book.admin() as owner:
        owner.execute(
            "UPDATE exchange.engine_balances SET available = available - 0.000001"
            " WHERE close_date = %s AND account = 'house:fees' AND asset = 'USDT'",
            (day,),
        )
    (found,) = book.close(day)[-1].metadata["breaks"]
    assert (found["account"], found["difference"]) == ("house:fees", "-0.000001")
    assert book.value("SELECT count(*) FROM accounts.holds") == 0


def test_user_missing_from_the_engine_and_one_that_the_ledger_does_not_know_are_breaks(book: BookUnderTest) -> None:
    day = book.days[0]
    run_to(book, day, "engine_balances")
    user = richest(book, day, "ETH")
    with book.admin() as owner:
        gone = owner.execute(
            "DELETE FROM exchange.engine_balances WHERE close_date = %s AND account = %s AND asset = 'ETH'"
            " RETURNING available + locked + staked + in_transit", (day, user)
        ).fetchone()  # fmt: skip
    with book.app() as app:
        app.execute("INSERT INTO exchange.engine_balances VALUES (%s, 1, 'ghost', 'ETH', 7)", (day,))
    assert gone is not None
    breaks = {b["account"]: Decimal(b["difference"]) for b in book.close(day)[-1].metadata["breaks"]}
    assert breaks == {user: -gone[0], "ghost": Decimal(7)}


def test_capture_changed_after_the_books_hash_is_refused_by_the_seal_and_recaptured(book: BookUnderTest) -> None:
    day = book.days[0]
    run_to(book, day, BEFORE_SEAL[-1].name)
    assert state(book, day) == "reconciled"
    user = richest(book, day, "ETH")
    with book.admin() as owner:
        owner.execute(
            "UPDATE exchange.engine_balances SET available = available + 1e-18"
            " WHERE close_date = %s AND account = %s AND asset = 'ETH'",
            (day, user),
        )
    for attempt in (lambda: seal_alone(book, day), lambda: book.close(day)):
        with pytest.raises(GateError, match=f"books of {day} are not those of hash"):
            attempt()
    assert state(book, day) == "reconciled"
    assert book.close(day, recapture=True)[-1].status == "succeeded"
    assert state(book, day) == "sealed"


def test_trade_that_settlement_lost_is_a_break_of_both_its_users(make_book: MakeBook) -> None:
    made = make_book(None)
    load_demo(made.opened.files.journal_dir, SMALL)
    with history.events_from(made.opened.files.journal_dir, 0) as stream:
        events = [event for group in stream for event in group]
        registry = stream.registry
    lost = next(e for e in reversed(events) if isinstance(e, Trade) and e.close_day == events[-1].close_day)  # type: ignore[union-attr]
    with made.app() as connection:
        Settler(registry).settle(connection, [e for e in events if e is not lost])
    made.close(made.days[0])
    last = made.close(made.days[1])[-1]
    assert (last.step, last.status) == ("engine_vs_ledger", "failed")
    names = {registry.accounts[n].name for n in (lost.maker_account, lost.taker_account)}
    assert {b["account"] for b in last.metadata["breaks"]} - {"house:fees"} == names


# What could not be checked.


def expect_unknown(book: BookUnderTest, day: date, step: str, match: str) -> None:
    with pytest.raises(UncheckedError, match=match):
        book.close(day)
    status, error = run_row(book, day, step)
    assert status == "unknown"
    assert str(error)
    assert state(book, day) != "sealed"
    with pytest.raises(GateError):
        seal_alone(book, day)


def test_stale_mark_is_unknown_and_named_never_zero(make_book: MakeBook) -> None:
    made = make_book(policy=Policy(reporting_currency="USDT", mark_max_age_s=1))
    expect_unknown(made, made.days[0], "mark_prices", r"no fresh mark for .*\(last trade 2026-03-02T")
    assert made.value("SELECT count(*) FROM market.mark_prices") == 0
    assert made.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.cutoff.failed'") == 1


def test_missing_mark_is_unknown_and_named_never_zero(make_book: MakeBook) -> None:
    made = make_book(policy=Policy(reporting_currency="BTC", mark_max_age_s=86_400))
    expect_unknown(made, made.days[0], "mark_prices", r"SHIB \(never traded against BTC\)")


def test_journal_that_cannot_be_reached_is_unknown_at_the_cut_off_and_at_the_capture(book: BookUnderTest) -> None:
    day, path = book.days[0], journal_path(book.opened.files.journal_dir)
    away = path.with_suffix(".away")
    path.rename(away)
    expect_unknown(book, day, "cutoff", "has no journal")
    away.rename(path)
    with book.closing(day) as context:
        run_step(cutoff.STEP, context)
    path.rename(away)
    expect_unknown(book, day, "engine_balances", "journal")
    away.rename(path)
    assert book.close(day)[-1].status == "succeeded"


def test_journal_with_a_flipped_bit_is_unknown(book: BookUnderTest) -> None:
    day, directory = book.days[0], book.opened.files.journal_dir
    for file in directory.rglob("*"):
        if file != journal_path(directory) and file.is_file():
            file.unlink()
    data = bytearray(journal_path(directory).read_bytes())
    data[len(data) // 4] ^= 1
    journal_path(directory).write_bytes(data)
    with pytest.raises(UncheckedError):
        book.close(day)
    assert state(book, day) in ("open", "cutoff")


def test_database_that_is_away_is_unknown(book: BookUnderTest) -> None:
    with book.closing(book.days[0]) as context:
        away = replace(context, url="postgresql://compline_app@127.0.0.1:1/none")
        with pytest.raises(UncheckedError, match="cannot be reached"):
            run_step(cutoff.STEP, away)


def test_day_that_was_never_cut_off_has_no_seal_trees_or_verdicts(book: BookUnderTest) -> None:
    day = book.days[0]
    with book.closing(day) as context:
        for step in STEPS[1:]:
            says = "not sealed" if step.after_seal else f"not cut off: step {step.name}"
            with pytest.raises(GateError, match=says):
                run_step(step, context)
    assert state(book, day) == "open"
    for table in ("close.seals", "recon.verdicts", "reserves.liability_trees", "exchange.engine_balances"):
        assert book.value(f"SELECT count(*) FROM {table}") == 0
