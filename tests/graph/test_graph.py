"""The graph as Dagster sees it: stages, dependencies, order, owners, runbooks."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from engine.clock import CutOffRule, parse_close_date
from engine.steps.plan import STEPS
from pipelines.definitions import build_defs
from pipelines.jobs import JOB_NAME
from pipelines.partitions import cron_of, partitions_of
from tests.fixtures.books import BookUnderTest

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"capture", "ledger", "positions", "snapshots", "recon", "lifecycle", "reserves", "seal", "finance"}


@pytest.fixture(scope="module")
def defs(sealed_book: BookUnderTest) -> dg.Definitions:
    return build_defs(sealed_book.opened.book.name, settings=sealed_book.opened.settings)


@pytest.fixture(scope="module")
def graph(defs: dg.Definitions) -> dict[dg.AssetKey, object]:
    found = defs.resolve_asset_graph()
    return {key: found.get(key) for key in found.get_all_asset_keys()}


def test_every_stage_is_there_and_every_dependency_is_a_definition(graph: dict) -> None:
    assert {node.group_name for node in graph.values()} == STAGES
    for key, node in graph.items():
        assert node.is_materializable, f"{key} is only named by others: a wrong dependency key"


def test_every_step_has_its_definition_and_runs_after_what_it_reads(graph: dict) -> None:
    names = {key.path[-1]: key for key in graph}
    assert {step.name for step in STEPS} <= set(names)

    def ancestors(key: dg.AssetKey) -> set[dg.AssetKey]:
        return set().union(*({parent} | ancestors(parent) for parent in graph[key].parent_keys), set())

    from_the_seal_on = ("seals", "inclusion_proofs", "evidence_packs")
    before_seal = {names[step.name] for step in STEPS if step.name not in from_the_seal_on}
    assert ancestors(names["seals"]) == before_seal
    assert names["fee_accruals"] in ancestors(names["control_totals"])
    assert names["seals"] in ancestors(names["fct_daily_balances"])


def test_no_day_depends_on_another_and_no_range_runs(graph: dict) -> None:
    for key, node in graph.items():
        assert key not in node.parent_keys
        assert node.backfill_policy is None
        assert isinstance(node.partitions_def, dg.DailyPartitionsDefinition)


def test_every_definition_says_whose_it_is_and_what_it_holds(graph: dict) -> None:
    for key, node in graph.items():
        assert node.owners, key
        assert node.kinds, key
        assert node.description, key
        assert "dagster/column_schema" in node.metadata, key


def test_the_barrier_holds_the_pool_and_everything_runs_in_process(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def(JOB_NAME)
    assert job.executor_def is dg.in_process_executor
    pools = {node.name: node.definition.pools for node in job.graph.nodes}
    assert pools["close__cutoff"] == {"close"}


def test_every_check_has_a_runbook(defs: dg.Definitions) -> None:
    for check in defs.asset_checks or []:
        for key in check.check_keys:
            runbook = ROOT / "docs" / "runbooks" / f"{key.name}.md"
            assert runbook.exists(), f"{key.name} has no runbook"
            for heading in (
                "**Meaning.**",
                "**First look.**",
                "**Who decides.**",
                "**Safe re-run.**",
                "**How to reverse.**",
            ):
                assert heading in runbook.read_text(encoding="utf-8"), f"{runbook.name} lacks {heading}"


def test_every_gate_of_the_policy_is_a_blocking_check(defs: dg.Definitions, sealed_book: BookUnderTest) -> None:
    specs = {spec.name: spec for check in defs.asset_checks or [] for spec in check.check_specs}
    for gate in sealed_book.opened.card.policy.required_gates:
        assert specs[gate].blocking


@pytest.mark.parametrize(
    ("text", "cron", "zone"),
    [
        ("24:00 UTC", "1 0 * * *", "UTC"),
        ("16:00 America/New_York", "0 16 * * *", "America/New_York"),
        ("08:00 UTC", "0 8 * * *", "UTC"),
    ],
)
def test_partition_keys_are_the_dates_on_which_windows_end(text: str, cron: str, zone: str) -> None:
    rule = CutOffRule.parse(text)
    partitions = partitions_of(date(2026, 3, 2), rule)
    assert cron_of(rule) == cron
    assert partitions.timezone == zone
    at = rule.instant(date(2026, 3, 9))
    keys = partitions.get_partition_keys(current_time=at)
    assert keys[0] == "2026-03-02"
    assert keys[-1] == "2026-03-09", "the date that ends now is there to be closed"
    assert rule.date_of(at) > parse_close_date(keys[-1]), "and an event at the cut-off belongs to the next"


def test_storage_is_pooled(sealed_book: BookUnderTest) -> None:
    """Rests on `optimize_for_webserver`, which Dagster does not document: pinned versions, and this."""
    from pipelines import dagster_home

    dagster_home.prepare(sealed_book.opened.settings, sealed_book.opened.servers)
    with dg.DagsterInstance.get() as instance:
        for part in (instance.event_log_storage, instance.run_storage, instance.schedule_storage):
            inner = getattr(part, "_storage", part)
            pools = {type(value.pool).__name__ for value in vars(inner).values() if hasattr(value, "pool")}
            assert pools, "nothing was looked at"
            assert "NullPool" not in pools, pools
