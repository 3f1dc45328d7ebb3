"""The reserves side of a day: the ratio gates the seal, what counts is in the manifest, a debit balance is no debt."""

from __future__ import annotations

import json
from datetime import date

import psycopg
import pytest

from engine.errors import GateError
from engine.reserves.manifest import parse_manifest
from engine.store import attestations, seals
from tests.fixtures.attested import WALLET, Attester
from tests.fixtures.books import BookUnderTest


def ratio(book: BookUnderTest, day: date) -> tuple[str, dict[str, object]]:
    row = book.value(
        "SELECT jsonb_build_array(verdict, detail) FROM recon.verdicts WHERE gate = 'reserves_cover_liabilities'"
        " AND close_date = %s ORDER BY judged_at DESC LIMIT 1",
        day,
    )
    assert isinstance(row, list)
    return row[0], row[1]


def test_day_seals_only_once_attested_reserves_cover_what_is_owed(book: BookUnderTest) -> None:
    first, second = book.days
    attester = Attester(book)
    assert book.close(first)[-1].step == "evidence_packs"
    attester.policy(second)
    stopped = book.close(second)[-1]
    assert (stopped.step, stopped.status) == ("attestations", "failed")
    verdict, detail = ratio(book, second)
    assert verdict == "fail"
    assert {one["why"] for one in detail["not_counted"]} == {"no balance was read near the cut-off"}

    owed = attester.owed(second)
    attester.own(second)
    for asset in owed:
        attester.hold(second, asset, owed[asset] - (asset == "BTC"))
    assert book.close(second)[-1].status == "failed"
    assert [one["asset"] for one in ratio(book, second)[1]["short"]] == ["BTC"]

    attester.hold(second, "BTC", owed["BTC"], minutes=0)
    assert book.close(second)[-1].step == "evidence_packs"
    with book.app() as app:
        seal = seals.read(app, second)
        covered = attestations.coverage(app, second, 1)
    assert seal is not None
    manifest = parse_manifest(seal.manifest.encode())
    assert {one.asset: one.amount for one in manifest.reserves} == owed
    assert {one.address for one in manifest.reserves} == {WALLET.address}
    assert {one.ownership for one in manifest.reserves} == {f"eip191 {second}T00:00:00Z"}
    assert all(one.reserves == one.liabilities for one in covered)


def test_attestations_changed_after_the_verdict_stop_the_seal(book: BookUnderTest) -> None:
    from engine.steps.plan import STEPS
    from engine.steps.runner import run_step

    first, second = book.days
    attester = Attester(book)
    book.close(first)
    attester.policy(second)
    book.close(second)
    attester.own(second)
    for asset, units in attester.owed(second).items():
        attester.hold(second, asset, units)
    names = [step.name for step in STEPS]
    with book.closing(second) as context:
        for step in STEPS[: names.index("seals")]:
            assert run_step(step, context).status == "succeeded"
        with book.admin() as owner:
            owner.execute("UPDATE reserves.attestations SET amount = 1, stated = 1 WHERE close_date = %s", (second,))
        with pytest.raises(GateError, match="reserves_cover_liabilities was pass and is fail"):
            run_step(STEPS[names.index("seals")], context)


def test_policy_with_addresses_and_without_the_gate_is_refused_in_sql_too(book: BookUnderTest) -> None:
    with book.admin() as owner, pytest.raises(psycopg.errors.CheckViolation, match="policies_reserves_are_judged"):
        owner.execute(
            "INSERT INTO close.policies SELECT '2027-01-01', policy || %s, policy_sha256, 'x', 'x' FROM close.policies",
            (json.dumps({"reserve_addresses": ["BTC bitcoin bc1q bip322"]}),),
        )


def test_application_writes_attestations_through_the_close_alone(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as app:
        for statement in (
            "INSERT INTO reserves.attestations (close_date, version, asset, chain, address, amount, block_height,"
            " block_hash, ownership) VALUES ('2026-03-02', 1, 'BTC', 'c', 'a', 0, 0, 'b', 'o')",
            "UPDATE reserves.attestations SET amount = 0",
            "DELETE FROM reserves.attestations",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())
        with pytest.raises(psycopg.Error, match=r"lease|epoch"):
            app.execute("SELECT reserves.replace_attestations(%s, 99, '[]')", (sealed_book.days[0],))


def test_debit_balance_of_a_house_account_lowers_no_liability_and_stops_no_seal(book: BookUnderTest) -> None:
    """A correction paid out of the insurance fund before anyone paid into it leaves the fund below zero."""
    day = book.days[0]
    with book.closing(day) as context:
        from engine.steps.plan import STEPS
        from engine.steps.runner import run_step

        names = [step.name for step in STEPS]
        for step in STEPS[: names.index("fee_accruals")]:
            run_step(step, context)
        with book.admin() as owner, owner.transaction():
            owner.execute(
                "SELECT * FROM ledger.ensure_accounts('{insurance_fund,revenue_router,suspense}', '{BTC,BTC,BTC}')"
            )
            number = owner.execute("SELECT ledger.reserve_postings(1)").fetchone()
            assert number is not None
            owner.execute(
                "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date,"
                " origin, epoch, actor, reason, row_hash) SELECT %s, 'pot_funding', 'test', 'debit', cutoff_at,"
                " close_date, 'close', %s, 'test', 'test', sha256('x') FROM close.days WHERE close_date = %s",
                (number[0], context.epoch, day),
            )
            owner.execute(
                "INSERT INTO ledger.ledger_entries SELECT %s, %s, account_id, 'BTC', x.amount FROM ledger.accounts a"
                " JOIN (VALUES ('insurance_fund', -0.5), ('suspense', 0.2), ('revenue_router', 0.3))"
                " x (account, amount) USING (account) WHERE a.asset = 'BTC'",
                (number[0], day),
            )
            # The hash is the ledger's own, so that the journal is as it was posted.
            owner.execute("ALTER TABLE ledger.journals DISABLE TRIGGER append_only")
            owner.execute(
                "UPDATE ledger.journals j SET row_hash = h.computed FROM ledger.journal_hashes(%s) h"
                " WHERE h.posting_no = j.posting_no AND j.posting_no = %s",
                (day, number[0]),
            )
            owner.execute("ALTER TABLE ledger.journals ENABLE TRIGGER append_only")
        for step in STEPS[names.index("fee_accruals") :]:
            assert run_step(step, context).status == "succeeded"
    with book.app() as app:
        seal = seals.read(app, day)
    assert seal is not None
    manifest = parse_manifest(seal.manifest.encode())
    assert [(one.account, one.amount) for one in manifest.other_liabilities if one.asset == "BTC"] == [
        ("suspense", 20_000_000)
    ]
