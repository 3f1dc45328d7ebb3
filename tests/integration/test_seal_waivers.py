"""Waivers by two people: what they let seal, within their cap, scope and time, and nothing more."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from engine.errors import GateError
from engine.reserves.entries import GateVerdict, verdicts_sha256
from engine.reserves.manifest import parse_manifest
from engine.steps.context import StepResult
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import days, seals
from tests.fixtures.books import BookUnderTest, MakeBook, one_snapshot
from tests.fixtures.seals import BEFORE_SEAL, NAMES, attempt, refused


def waive(book: BookUnderTest, day: date, cap: str, **changes: object) -> None:
    row = {
        "gate": "engine_vs_ledger",
        "scope": "house:fees",
        "close_date": day,
        "asset": "USDT",
        "amount_cap": cap,
        "reason": "known rounding of an upgrade",
        "maker": "ann",
        "checker": "bea",
        "expires_at": "2100-01-01",
    } | changes
    with book.admin() as owner:
        owner.execute(
            f"INSERT INTO recon.waivers ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})".encode(),
            list(row.values()),
        )


def off_by(book: BookUnderTest, day: date, account: str, amount: str) -> StepResult:
    """Close a day whose capture is off, up to its failing gate."""
    with book.closing(day) as context:
        for step in STEPS[: NAMES.index("engine_balances") + 1]:
            run_step(step, context)
    with book.admin() as owner:
        done = owner.execute(
            "UPDATE exchange.engine_balances SET available = available + %s"
            " WHERE close_date = %s AND account = %s AND asset = 'USDT'",
            (amount, day, account),
        )
        assert done.rowcount == 1
    last = book.close(day)[-1]
    assert (last.step, last.status) == ("engine_vs_ledger", "failed")
    return last


def test_waiver_by_two_people_seals_within_its_cap_and_shows_in_the_manifest(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    off_by(made, day, "house:fees", "0.5")
    for cap, changes in (
        ("0.499999", {}),
        ("9", {"asset": "BTC"}),
        ("9", {"close_date": made.days[1]}),
        ("9", {"scope": "u-0001"}),
        ("9", {"expires_at": "2026-01-01"}),
        ("9", {"gate": "ledger_vs_custody"}),
    ):
        waive(made, day, cap, **changes)
        assert made.close(day)[-1].status == "failed"
    for bad in (
        {"checker": "ann"},
        {"amount_cap": "NaN"},
        {"amount_cap": "-1"},
        {"gate": "debits_equal_credits"},
        {"reason": ""},
    ):
        with refused("23514"):
            waive(made, day, "9", **bad)
    waive(made, day, "0.5")
    results = made.close(day)
    assert (results[-1].step, results[-1].status) == ("evidence_packs", "succeeded")
    with made.app() as app:
        seal = seals.read(app, day)
        gates = {g.gate: g for g in days.gates(app, day)}
    assert seal is not None
    verdict = gates["engine_vs_ledger"]
    assert (verdict.verdict, verdict.stands) == ("fail", True)
    assert verdict.waiver is not None
    shown = [GateVerdict(g.gate, g.scope, g.verdict, g.waiver) for g in gates.values()]
    hidden = [replace(g, verdict="pass", waiver=None) for g in shown]
    said = parse_manifest(seal.manifest.encode()).verdicts_sha256
    assert said == verdicts_sha256(shown) != verdicts_sha256(hidden)
    assert made.value("SELECT difference FROM recon.breaks WHERE state = 'open'") == Decimal("0.5")


def test_waiver_past_its_expiry_does_not_seal_a_day_that_was_reconciled_under_it(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    off_by(made, day, "house:fees", "-0.000001")
    waive(made, day, "0.000001")
    with made.closing(day) as context:
        for step in BEFORE_SEAL:
            assert run_step(step, context).status == "succeeded"
        with made.admin() as owner:
            owner.execute("ALTER TABLE recon.waivers DISABLE TRIGGER USER")
            owner.execute("UPDATE recon.waivers SET expires_at = clock_timestamp() - interval '1 s'")
            owner.execute("ALTER TABLE recon.waivers ENABLE TRIGGER USER")
        with pytest.raises(GateError):
            run_step(STEPS[NAMES.index("seals")], context)
    with attempt(made, day) as found, refused("CL007", match="engine_vs_ledger is fail"):
        seal = found.seal()
        found.put(seal)


def test_waived_break_of_a_customer_seals_with_the_ledgers_balance_and_the_break_listed(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    off_by(made, day, "u-0001", "0.5")
    waive(made, day, "1", scope="book")
    assert made.close(day)[-1].step == "evidence_packs"
    assert made.value(
        "SELECT s.total - b.balance FROM close.user_balance_snapshots s JOIN ledger.accounts a USING (account, asset)"
        " JOIN ledger.daily_balances b USING (account_id, close_date)"
        " WHERE s.close_date = %s AND s.account = 'u-0001' AND s.asset = 'USDT'",
        day,
    ) == Decimal(0)
    assert made.value("SELECT state FROM recon.breaks WHERE subject = 'u-0001'") == "open"


def test_unknown_gate_is_covered_by_a_waiver_of_the_whole_book_alone(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    with made.closing(day) as context:
        for step in STEPS[: NAMES.index("user_balance_snapshots") + 1]:
            run_step(step, context)
        for scope, stands in (("u-0001", False), ("book", True)):
            waive(made, day, "0", scope=scope)
            with one_snapshot(made.admin()) as owner, owner.transaction(force_rollback=True):
                owner.execute("DELETE FROM exchange.engine_balances WHERE close_date = %s", (day,))
                assert days.judge(owner, day, "engine_vs_ledger", context.epoch) == "unknown"
                assert {g.gate: g.stands for g in days.gates(owner, day)}["engine_vs_ledger"] is stands
