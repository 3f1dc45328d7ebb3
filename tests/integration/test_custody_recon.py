"""Ledger against custody: wallets read at the cut-off, transit listed, fees booked, and each way in which it breaks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine import clock
from engine.close.policy import LEDGER_VS_CUSTODY, Policy
from engine.errors import ComplineError, ConfigError, UsageError
from engine.gateways.alert_channels import channels_of
from engine.store import days, reopening, tolerances
from engine.store.connect import connect, typed_errors
from pipelines import watch
from tests.fixtures.alerts import Receiver
from tests.fixtures.outside import WITH_CUSTODY, WithCustody

UNIT = 10**8


def gate(made: WithCustody, day: Any, name: str = LEDGER_VS_CUSTODY) -> days.Gate:
    with made.book.app() as connection:
        return next(g for g in days.gates(connection, day) if g.gate == name)


def noon(made: WithCustody, day: Any) -> Any:
    return WITH_CUSTODY.cutoff_rule.instant(day) - timedelta(hours=12)


def report(made: WithCustody, day: Any) -> str:
    """The report of a sealed date, as text of its body."""
    folder = made.book.opened.files.evidence_dir / made.book.opened.book.name / f"{day}-v1"
    return (folder / "report.html").read_text().partition("<body>")[2]


def breaks(made: WithCustody) -> list[tuple[str, str, str, str]]:
    with made.book.admin() as connection:
        return connection.execute(
            "SELECT subject, asset, trim_scale(difference)::text, state FROM recon.breaks ORDER BY break_id"
        ).fetchall()


def test_days_whose_wallets_agree_seal_and_the_readings_are_in_the_books_hash(custody_book: WithCustody) -> None:
    for day in custody_book.book.days:
        assert custody_book.close(day).step == "evidence_packs"
        found = gate(custody_book, day)
        assert (found.verdict, found.detail["compared"], found.detail["in_transit_count"]) == ("pass", 8, 0)
    digest = custody_book.book.value(
        "SELECT readings FROM close.books_digests((SELECT min(close_date) + 1 FROM close.days))"
    )
    assert digest != custody_book.book.value(
        "SELECT readings FROM close.books_digests((SELECT min(close_date) FROM close.days))"
    )


@pytest.mark.parametrize("units", [1, -1])
def test_one_smallest_unit_in_a_wallet_is_a_break_by_name_and_freezes_nobody(
    custody_book: WithCustody, units: int
) -> None:
    first, second = custody_book.book.days
    custody_book.close(first)
    custody_book.wallet("BTC").receive("from-nowhere", 5 * UNIT, noon(custody_book, second))
    custody_book.wallet("BTC").send("to-nowhere", 5 * UNIT - units, 0, noon(custody_book, second), sequence="wd-none")
    result = custody_book.close(second)
    assert (result.step, result.status) == ("ledger_vs_custody", "failed")
    sent = Decimal(-5) + units * Decimal("1e-8")
    assert ("transit:wd-none", "BTC", f"{sent:f}", "open") in breaks(custody_book)
    assert custody_book.book.value("SELECT count(*) FROM accounts.holds WHERE kind = 'break'") == 0
    assert custody_book.book.value("SELECT state FROM close.days WHERE close_date = %s", second) == "cutoff"


def test_a_balance_that_its_lines_do_not_explain_is_unknown_and_never_passes(custody_book: WithCustody) -> None:
    first, second = custody_book.book.days
    custody_book.close(first)
    custody_book.wallet("ETH").offset = 1  # a page that was left out looks like this
    result = custody_book.close(second)
    assert (result.step, result.status) == ("ledger_vs_custody", "unknown")
    found = gate(custody_book, second)
    assert found.verdict == "unknown"
    assert [u["subject"] for u in found.detail["unread"]] == ["main/ETH"]
    assert "does not explain" in found.detail["unread"][0]["why"]


def test_a_missing_reading_is_unknown_and_never_zero(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    result = custody_book.book.close(first)[-1]
    assert (result.step, result.status) == ("ledger_vs_custody", "unknown")
    assert len(gate(custody_book, first).detail["unread"]) == 8
    assert custody_book.close(first).step == "evidence_packs"  # collected now, the next run takes it


def test_what_custody_says_too_early_or_under_another_clock_is_unknown(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    custody_book.bitgo.clock_ahead_s = 3600
    custody_book.close(first)
    assert "clock" in gate(custody_book, first).detail["unread"][0]["why"]
    with pytest.raises(UsageError, match="has not come"):
        custody_book.collect(first + timedelta(days=4000))


def test_network_fees_are_booked_from_the_wallets_own_list_and_the_tolerance_stays_zero(
    custody_book: WithCustody,
) -> None:
    first, second = custody_book.book.days
    sends = [t for t in custody_book.wallet("BTC").transfers if t["type"] == "send"]
    for transfer in custody_book.wallet("ETH").transfers + sends:
        if transfer["type"] == "send":
            transfer |= {"feeString": "21000", "valueString": str(int(transfer["valueString"]) - 21000)}
    with custody_book.book.admin() as connection:  # the house has no coins of its own in these assets to pay from
        for asset in ("BTC", "ETH"):
            connection.execute(
                "INSERT INTO recon.tolerances VALUES ('custody_covers_liabilities', %s, 1, 0, 'ada', 'infinity')",
                (asset,),
            )
    fees = sum(t["type"] == "send" for t in custody_book.wallet("ETH").transfers)
    for day in (first, second):
        assert custody_book.close(day).step == "evidence_packs", gate(custody_book, day).detail
    assert custody_book.book.value("SELECT count(*) FROM ledger.journals WHERE kind = 'network_fee'") == fees + len(
        sends
    )
    spent = custody_book.book.value(
        "SELECT -balance FROM ledger.accounts WHERE account = 'network_fee_expense' AND asset = 'BTC'"
    )
    assert spent == (Decimal("0.00021") * len(sends) if sends else None)
    before = custody_book.book.state_digest()
    for day in (first, second):
        custody_book.book.close(day)
    assert custody_book.book.state_digest() == before


def test_coins_moved_to_the_cold_wallet_follow_in_the_ledger_and_are_in_transit_between(
    custody_book: WithCustody,
) -> None:
    first, second = custody_book.book.days
    main, cold = custody_book.wallet("BTC"), custody_book.wallet("BTC", "cold")
    at = noon(custody_book, first)
    main.send("sweep", UNIT, 500, at)
    cold.receive("sweep", UNIT, at + timedelta(days=1))
    assert custody_book.close(first).step == "ledger_vs_custody"  # nobody ordered that send
    assert breaks(custody_book)[0][0] == "transit:sweep"
    cold.transfers.clear()
    cold.receive("sweep", UNIT, at + timedelta(minutes=30))
    assert custody_book.close(first).step == "evidence_packs"
    assert (
        custody_book.book.value("SELECT -balance FROM ledger.accounts WHERE account = 'custody:cold' AND asset = 'BTC'")
        == 1
    )
    assert [row[3] for row in breaks(custody_book)] == ["corrected"]
    assert custody_book.close(second).step == "evidence_packs"


def test_a_deposit_that_nobody_credited_is_listed_until_it_is_too_old(custody_book: WithCustody) -> None:
    first, second = custody_book.book.days
    custody_book.wallet("BTC").receive("lost-deposit", 3 * UNIT, noon(custody_book, first))
    assert custody_book.close(first).step == "evidence_packs"
    listed = gate(custody_book, first).detail["in_transit"]
    assert [(i["reference"], i["custody"], i["ledger"]) for i in listed] == [("lost-deposit", "3", "0")]
    assert "lost-deposit" in report(custody_book, first)
    assert custody_book.close(second).step == "evidence_packs"
    with custody_book.book.admin() as connection:
        days_left = connection.execute("SELECT count(*) FROM close.days WHERE state = 'open'").fetchone()
    assert days_left == (1,)


def test_a_deposit_credited_but_not_there_is_a_break_and_money_left_uncovered(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    wallet = custody_book.wallet("BTC")
    gone = next(t for t in wallet.transfers if t["type"] == "receive")
    wallet.transfers.remove(gone)
    result = custody_book.close(first)
    assert (result.step, result.status) == ("ledger_vs_custody", "failed")
    assert breaks(custody_book)[0][0] == f"transit:{gone['txid']}"
    gone["state"] = "unconfirmed"
    wallet.transfers.append(gone)
    assert custody_book.close(first).step != "ledger_vs_custody"
    assert gate(custody_book, first).verdict == "pass"  # its line is there, unconfirmed: young and explained


def test_a_deposit_taken_back_by_the_chain_comes_off_the_wallet_and_is_a_break(custody_book: WithCustody) -> None:
    first, second = custody_book.book.days
    wallet = custody_book.wallet("BTC")
    assert custody_book.close(first).step == "evidence_packs"
    gone = next(t for t in wallet.transfers if t["type"] == "receive")
    gone["state"] = "removed"
    result = custody_book.close(second)
    assert (result.step, result.status) == ("ledger_vs_custody", "failed")
    assert breaks(custody_book)[0][0] == f"transit:{gone['txid']}"
    assert custody_book.book.value("SELECT count(*) FROM custody.transfers WHERE transfer LIKE '%%~removed'") == 1


def test_the_application_cannot_list_away_what_is_in_transit(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    custody_book.close(first)
    for statement in (
        "DELETE FROM custody.in_transit",
        "INSERT INTO custody.in_transit SELECT * FROM custody.in_transit",
        "INSERT INTO recon.tolerances VALUES ('ledger_vs_custody', 'BTC', 1, 0, 'me', now() + interval '1 day')",
        "UPDATE capture.readings SET raw = ''",
        "UPDATE custody.wallet_balances SET balance = 0",
    ):
        with custody_book.book.app() as connection, pytest.raises(psycopg.Error):
            connection.execute(statement.encode())


def as_owner(made: WithCustody, work: Callable[[psycopg.Connection], object]) -> None:
    with connect(made.book.opened.servers.admin.dsn()) as connection, typed_errors():
        work(connection)
        connection.commit()


def tolerate(
    made: WithCustody, amount: str, *, bps: int = 0, days: int = 1, second: str = "ben", of: str = LEDGER_VS_CUSTODY
) -> None:
    until = clock.now() + timedelta(days=days)
    as_owner(made, lambda c: tolerances.put(c, of, "BTC", Decimal(amount), bps, until, "dust", "ada", second))


def test_a_tolerance_is_set_and_ended_by_two_people_and_where_it_was_used_the_verdict_says_so(
    custody_book: WithCustody,
) -> None:
    first = custody_book.book.days[0]
    line = custody_book.wallet("BTC").transfers[0]
    line["valueString"] = str(int(line["valueString"]) + 5)
    assert custody_book.close(first).status == "failed"
    for amount, changes, says in (
        ("0.1", {"second": " Ada"}, "two different people"),
        ("0", {}, "is none"),
        ("-1", {}, "is none"),
        ("0.1", {"bps": 10_001}, "is none"),
        ("0.1", {"days": 367}, "within 366 days"),
        ("0.1", {"days": -1}, "within 366 days"),
    ):
        with pytest.raises(ComplineError, match=says):
            tolerate(custody_book, amount, **changes)  # type: ignore[arg-type]
    with pytest.raises(ComplineError, match="takes no tolerance"):
        tolerate(custody_book, "1", of="engine_vs_ledger")
    tolerate(custody_book, "0.00000004")
    assert custody_book.close(first).status == "failed"
    tolerate(custody_book, "0.00000005")
    as_owner(custody_book, lambda c: tolerances.expire(c, LEDGER_VS_CUSTODY, "BTC", "no more dust", "carl", "dora"))
    assert custody_book.close(first).status == "failed"  # one past its end tolerates nothing
    with pytest.raises(ComplineError, match="in force"):
        as_owner(custody_book, lambda c: tolerances.expire(c, LEDGER_VS_CUSTODY, "BTC", "again", "carl", "dora"))
    tolerate(custody_book, "0.00000005")
    assert custody_book.close(first).step == "evidence_packs"
    used = gate(custody_book, first).detail["tolerated"]
    assert [(u["subject"], u["difference"], u["tolerance"], u["maker"], u["approver"]) for u in used] == [
        (f"transit:{line['txid']}", "0.00000005", "0.00000005", "ada", "ben")
    ]
    shown = report(custody_book, first).partition("Tolerances used")[2].partition("<h2>")[0]
    assert [part for part in (line["txid"], "0.00000005", "ada, ben") if part not in shown] == []
    with custody_book.book.app() as connection:
        assert [one["what"] for one in tolerances.history(connection)] == ["set", "set", "expired", "set"]
        assert [one.in_force for one in tolerances.every(connection)] == [True]


def test_basis_points_are_of_the_outside_figure(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    wallet = custody_book.wallet("BTC")
    wallet.transfers[0]["valueString"] = str(int(wallet.transfers[0]["valueString"]) + 5)
    tolerate(custody_book, "0.00000001", bps=1)
    held = int(wallet.state()["confirmedBalanceString"])
    say = "SELECT trim_scale(recon.tolerance('ledger_vs_custody', 'BTC', %s))"
    assert custody_book.book.value(say, Decimal(held) / UNIT) == Decimal(held) / UNIT / 10_000
    assert custody_book.book.value(say, Decimal("-0.5")) == Decimal("0.00005")
    assert custody_book.book.value(say, Decimal(0)) == Decimal("0.00000001")
    assert custody_book.close(first).status == "failed"  # a reference's two amounts are measured absolutely


def test_a_page_missing_from_a_whole_list_is_unknown_on_the_first_date_already(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    wallet = custody_book.wallet("ETH")
    gone = next(t for t in wallet.transfers if t["type"] == "receive")
    wallet.transfers.remove(gone)
    wallet.offset = int(gone["valueString"])  # the balance knows of it, the list does not
    assert custody_book.close(first).status == "unknown"
    unread = gate(custody_book, first).detail["unread"]
    assert [u["subject"] for u in unread] == ["main/ETH"]
    assert "a page of the list is missing" in unread[0]["why"]


def test_a_history_changed_after_the_seal_is_told_once_with_the_command_and_closes_again_as_the_next_version(
    custody_book: WithCustody, receiver: Receiver
) -> None:
    book = custody_book.book
    first, second = book.days
    for day in (first, second):
        assert custody_book.close(day).step == "evidence_packs"
    assert [one.changed for one in custody_book.collect(first)] == [""] * 8  # read again, it says the same
    raw = book.value("SELECT sha256 FROM capture.readings ORDER BY reading_id LIMIT 1")
    sealed = book.state_digest()
    wallet = custody_book.wallet("BTC")
    gone = next(t for t in wallet.transfers if t["type"] == "receive")
    gone["state"] = "removed"
    for _ in range(2):
        told = [one for one in custody_book.collect(first) if one.changed]
        assert [one.subject for one in told] == [f"main/BTC@{first}"]
        assert "the balance at the cut-off was" in told[0].changed
        assert gone["txid"] in told[0].changed
    assert book.state_digest() == sealed
    assert book.value("SELECT sha256 FROM capture.readings ORDER BY reading_id LIMIT 1") == raw
    watch.look(book.opened, channels_of(receiver.url), WITH_CUSTODY.cutoff_rule.instant(second))
    alerts = [post for post in receiver.posts if "differs from the one" in post["title"]]
    assert [post["title"] for post in alerts] == [
        f"[error] a reading of {first} in {book.opened.book.name} differs from the one that v1 was sealed on"
    ]
    for part in (f"compline close reopen {first}", gone["txid"], "docs/runbooks/reading_changed.md"):
        assert part in alerts[0]["message"]
    with book.app() as connection:
        reopening.reopen(connection, first, reason="the chain took it back", maker="ada", checker="ben")
    result = custody_book.close(first)
    assert (result.step, result.status) == ("ledger_vs_custody", "failed")
    assert breaks(custody_book)[0][0] == f"transit:{gone['txid']}"
    assert book.value("SELECT count(*) FROM custody.wallet_balances WHERE close_date = %s AND version = 1", first) == 8


def test_more_than_the_books_can_hold_is_unknown_and_less_than_nothing_is_a_break(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    custody_book.wallet("BTC").receive("enormous", 10**40, noon(custody_book, first))
    assert custody_book.close(first).status == "unknown"
    unread = gate(custody_book, first).detail["unread"]
    assert [(u["subject"], "more than the books can hold" in u["why"]) for u in unread] == [("main/BTC", True)]
    custody_book.wallet("BTC").transfers.pop()
    wallet = custody_book.wallet("ETH")
    wallet.send("too-much", 10**30, 0, noon(custody_book, first), sequence="nobody-asked")
    assert int(wallet.state()["confirmedBalanceString"]) < 0
    assert custody_book.close(first).status == "failed"
    assert breaks(custody_book) == [("transit:nobody-asked", "ETH", "-1000000000000", "open")]


@pytest.mark.parametrize(
    "changes",
    [
        {"custody_wallets": (*WITH_CUSTODY.custody_wallets, WITH_CUSTODY.custody_wallets[0])},
        {"custody_wallets": (("cold", "BTC", "cold", "bitgo", "btc", "x", 8),)},
        {"custody_wallets": (("main", "BTC", "warm", "bitgo", "btc", "x", 8),)},
        {"custody_wallets": (("main", "BTC", "hot", "bitgo", "btc", "../x", 8),)},
        {"custody_wallets": (("main", "BTC", "hot", "bitgo", "btc", "x", 8.0),)},
        {"custody_wallets": (("main", "BTC"),)},
        {"staking_contracts": (("0xABC", "QTRA", 18),)},
        {"in_transit_max_days": 0},
    ],
)
def test_a_policy_with_odd_sources_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Policy(**{**{f: getattr(WITH_CUSTODY, f) for f in ("reporting_currency", "required_gates")}, **changes})


def test_a_policy_that_names_wallets_names_their_gates(custody_book: WithCustody) -> None:
    with custody_book.book.admin() as connection, pytest.raises(psycopg.errors.CheckViolation, match="outside_gates"):
        connection.execute(
            "INSERT INTO close.policies SELECT '2030-01-01', jsonb_set(policy, '{required_gates}',"
            " (policy -> 'required_gates') - 'ledger_vs_custody'), policy_sha256, 'x', 'x' FROM close.policies LIMIT 1"
        )
