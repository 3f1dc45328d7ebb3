"""Ledger against custody: wallets read at the cut-off, transit listed, fees booked, and each way in which it breaks."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine.close.policy import LEDGER_VS_CUSTODY, Policy
from engine.errors import ConfigError, UsageError
from engine.store import days
from tests.fixtures.outside import WITH_CUSTODY, WithCustody

UNIT = 10**8


def gate(made: WithCustody, day: Any, name: str = LEDGER_VS_CUSTODY) -> days.Gate:
    with made.book.app() as connection:
        return next(g for g in days.gates(connection, day) if g.gate == name)


def noon(made: WithCustody, day: Any) -> Any:
    return WITH_CUSTODY.cutoff_rule.instant(day) - timedelta(hours=12)


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


def test_a_tolerance_is_a_row_with_an_approver_and_an_end(custody_book: WithCustody) -> None:
    first = custody_book.book.days[0]
    custody_book.wallet("BTC").transfers[0]["valueString"] = str(
        int(custody_book.wallet("BTC").transfers[0]["valueString"]) + 5
    )
    assert custody_book.close(first).status == "failed"
    row = (
        "INSERT INTO recon.tolerances"
        " VALUES ('ledger_vs_custody', 'BTC', %s, 0, 'ada', clock_timestamp() + %s::interval)"
    )
    with custody_book.book.admin() as connection:
        connection.execute(row, ("0.00000004", "1 day"))
        assert custody_book.close(first).status == "failed"
        connection.execute("DELETE FROM recon.tolerances")
        connection.execute(row, ("0.00000005", "-1 day"))
        assert custody_book.close(first).status == "failed"
        connection.execute("DELETE FROM recon.tolerances")
        connection.execute(row, ("0.00000005", "1 day"))
    assert custody_book.close(first).step == "evidence_packs"


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
