"""The gates as asset checks: what the database judged, waivers shown, and what could not be checked never passed."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import pytest

from checks.gates import GATES, build_gate_checks, gate_result
from engine.close import policy
from engine.store.days import Gate
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.finance import HeldContext

KEYS = sorted({key for key, _ in GATES.values()})


def test_every_gate_of_a_sealed_day_passes(sealed_book: BookUnderTest) -> None:
    evaluations = _evaluate(sealed_book)
    assert {e.check_name: e.passed for e in evaluations} == dict.fromkeys(GATES, True)
    assert all(e.blocking for e in evaluations)
    for evaluation in evaluations:
        wanted = "pass" if evaluation.check_name in policy.GATES else "not required by the policy, not judged"
        assert evaluation.metadata["verdict"].value == wanted
        assert str(evaluation.metadata["runbook"].value).endswith(f"docs/runbooks/{evaluation.check_name}.md")


def test_gates_of_a_day_that_was_not_judged_do_not_pass(make_book: MakeBook) -> None:
    book = make_book()
    evaluations = _evaluate(book)
    assert {e.check_name: e.passed for e in evaluations} == {gate: gate not in policy.GATES for gate in GATES}


def test_gates_before_the_books_hash_could_not_be_checked(make_book: MakeBook) -> None:
    book = make_book()
    book.close(book.days[0])
    evaluations = _evaluate(book, 1)
    judged = [e for e in evaluations if e.check_name in policy.GATES]
    assert {e.passed for e in judged} == {False}
    assert all("could not be checked" in str(e.description) for e in judged)


@pytest.mark.parametrize(
    ("verdict", "waiver", "stands", "shown"),
    [
        ("pass", None, True, "pass"),
        ("fail", None, False, "fail"),
        ("unknown", None, False, "unknown: it could not be checked"),
        ("fail", "7", True, "fail, waived by waiver 7"),
    ],
)
def test_a_waiver_lets_a_gate_stand_and_is_shown(verdict: str, waiver: str | None, stands: bool, shown: str) -> None:
    found = [Gate("engine_vs_ledger", "book", verdict, waiver, stands, {"breaks": 1, "shown": [{"account": "a"}]})]
    result = gate_result("engine_vs_ledger", found, "2026-01-05")
    assert result.passed is stands
    assert result.metadata["verdict"].value == shown
    assert result.severity == dg.AssetCheckSeverity.ERROR


def test_a_core_gate_that_the_policy_does_not_name_is_not_passed_and_another_claims_nothing() -> None:
    other = gate_result("ledger_vs_custody", [], "2026-01-05")
    assert (other.passed, "is not judged" in str(other.description)) == (True, True)
    result = gate_result("engine_vs_ledger", [], "2026-01-05")
    assert result.passed is False
    assert "could not be checked" in str(result.description)


def _evaluate(book: BookUnderTest, nth: int = 0) -> Sequence[dg.AssetCheckEvaluation]:
    partitions = dg.DailyPartitionsDefinition(start_date=str(book.days[0]))

    def written(key: tuple[str, str]) -> dg.AssetsDefinition:
        @dg.asset(key=list(key), partitions_def=partitions)
        def table() -> None: ...

        return table

    day = book.days[nth]
    with book.closing(day) as context:
        done = dg.materialize(
            [*map(written, KEYS), *build_gate_checks(partitions)],  # type: ignore[list-item]
            partition_key=str(day),
            resources={"close": HeldContext(book, context)},
            raise_on_error=False,
        )
    return done.get_asset_check_evaluations()
