"""The dbt project keeps its conventions, read from the parsed manifest and the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets.finance import manifest
from assets.finance.invoke import MARTS_AND_TESTS
from assets.finance.project import PROJECT_DIR, marts, relation_names

WHERE = "close_date = __close_date__"
FLOATS = re.compile(r"\b(float|real|double)\b")


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The prepared manifest, made in a home of its own: parsing needs no database."""
    return manifest.as_dict(tmp_path_factory.mktemp("home"))


def test_every_test_of_a_daily_model_names_the_date(parsed: dict[str, Any]) -> None:
    tests = [node for node in parsed["nodes"].values() if node["resource_type"] == "test"]
    daily = {n["name"] for n in _models(parsed) if "close_date" in n["columns"]}
    assert {t["attached_node"].split(".")[-1] for t in tests} <= daily
    assert {t["name"]: t["config"]["where"] for t in tests if t["config"].get("where") != WHERE} == {}


def test_the_date_is_put_in_while_a_test_runs_and_is_refused_without_one() -> None:
    macro = (PROJECT_DIR / "macros" / "get_where_subquery.sql").read_text(encoding="utf-8")
    assert "replace('__close_date__', close_date())" in macro
    assert "raise_compiler_error" in (PROJECT_DIR / "macros" / "close_date.sql").read_text(encoding="utf-8")


def test_no_invocation_of_ours_builds_without_the_date() -> None:
    root = PROJECT_DIR.parent
    for path in [*root.glob("assets/**/*.py"), *root.glob("checks/**/*.py"), *root.glob("pipelines/**/*.py")]:
        source = path.read_text(encoding="utf-8")
        if "dbtRunner" in source and '"parse"' not in source:
            assert path.name == "invoke.py"
            assert '["build", "--vars", json.dumps({"close_date": str(day)})]' in source


def test_every_mart_is_incremental_by_date_under_an_enforced_contract(parsed: dict[str, Any]) -> None:
    for node in _marts(parsed):
        config = node["config"]
        assert config["materialized"] == "incremental"
        assert config["incremental_strategy"] == "replace_close_date"
        assert config["contract"]["enforced"] is True
        assert config["grants"] == {"select": ["compline_finance"]}
        assert node["schema"] == "finance"
        assert node["relation_name"] == f'"{manifest.PLACEHOLDER}"."finance"."{node["name"]}"'
        assert "where_close_date()" in node["raw_code"]
        assert any(index["unique"] and index["columns"][0] == "close_date" for index in config["indexes"])


def test_only_the_door_of_sealed_days_leads_into_a_mart(parsed: dict[str, Any]) -> None:
    for node in _marts(parsed):
        assert "model.compline.int_sealed_days" in node["depends_on"]["nodes"]


def test_every_column_is_described_and_no_amount_is_a_float(parsed: dict[str, Any]) -> None:
    for node in _models(parsed):
        assert node["description"].endswith("."), node["name"]
        for column in node["columns"].values():
            assert column["description"], f"{node['name']}.{column['name']}"
            assert not FLOATS.search(column["data_type"] or "")
        assert not FLOATS.search(node["raw_code"]), node["name"]


def test_every_amount_of_a_mart_names_its_unit(parsed: dict[str, Any]) -> None:
    for node in _marts(parsed):
        for column in node["columns"].values():
            if column["data_type"].startswith("numeric"):
                assert column["data_type"] == "numeric(38,18)"
                assert "in units of" in column["description"], f"{node['name']}.{column['name']}"
            if column["data_type"] == "bigint" and column["name"] != "user_id":
                assert "a count" in column["description"], f"{node['name']}.{column['name']}"


def test_every_mart_has_an_exposure_and_an_owner(parsed: dict[str, Any]) -> None:
    shown = {name for e in parsed["exposures"].values() for name in e["depends_on"]["nodes"]}
    assert shown == {node["unique_id"] for node in _marts(parsed)}
    assert all(e["owner"]["name"] and e["description"] for e in parsed["exposures"].values())


def test_staging_is_one_view_a_source_table(parsed: dict[str, Any]) -> None:
    staging = [n for n in _models(parsed) if n["name"].startswith("stg_")]
    for node in staging:
        assert node["config"]["materialized"] == "view"
        (source,) = node["depends_on"]["nodes"]
        assert node["name"] == "stg_" + "__".join(source.split(".")[-2:])
    assert len(staging) == len(parsed["sources"])


def test_models_and_their_yml_lie_beside_each_other() -> None:
    for path in (PROJECT_DIR / "models").rglob("*.sql"):
        described = yaml.safe_load(path.with_suffix(".yml").read_text(encoding="utf-8"))
        assert [model["name"] for model in described["models"]] == [path.stem]


def test_definitions_read_from_yml_are_what_dbt_parses(parsed: dict[str, Any]) -> None:
    by_name = {node["name"]: node for node in _marts(parsed)}
    assert {mart.name for mart in marts()} == set(by_name)
    for mart in marts():
        node = by_name[mart.name]
        assert [c[0] for c in mart.columns] == list(node["columns"])
        tests = [n for n in parsed["nodes"].values() if n.get("attached_node") == node["unique_id"]]
        assert {test.name for test in mart.tests} == {test["name"] for test in tests}
    assert relation_names() == {n["name"] for n in _models(parsed)}
    assert MARTS_AND_TESTS[0] == "config.materialized:incremental"


def test_the_folder_of_the_project_holds_no_python() -> None:
    assert list(PROJECT_DIR.rglob("*.py")) == []


def test_no_module_of_ours_is_imported_by_dbt() -> None:
    # dbt imports whatever is called dbt_... at the top level of the path.
    root = PROJECT_DIR.parent
    assert [path.name for path in root.glob("dbt_*")] == []


def test_what_a_build_replaces_in_dbt_is_still_there() -> None:
    from dbt_common.behavior_flags import BehaviorFlagRendered

    assert isinstance(BehaviorFlagRendered._default_source(), str)


def test_prepared_manifest_is_made_once_and_holds_no_secret(tmp_path: Path) -> None:
    made = manifest.prepare(tmp_path)
    stamp = made.stat().st_mtime_ns
    assert manifest.prepare(tmp_path).stat().st_mtime_ns == stamp
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    text = made.read_text(encoding="utf-8")
    assert manifest.PLACEHOLDER in text
    assert "COMPLINE_DBT_PASSWORD" not in text


def _models(parsed: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in parsed["nodes"].values() if node["resource_type"] == "model"]


def _marts(parsed: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in _models(parsed) if node["name"].startswith("fct_")]
