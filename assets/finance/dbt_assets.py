"""The marts as asset definitions: one operation that runs step `finance`, the dbt tests as asset checks.

What belongs here: specs from the marts' yml, and what a run yields. What does not: the step (see `step`).

Whatever is selected, the step builds and tests all marts: a row of `close.eod_runs` stands for the whole of finance.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.closing import CloseResource
from assets.finance.database import FinanceDatabase
from assets.finance.project import SCHEMA, Mart, MartTest, marts
from assets.finance.step import finance_step
from engine.errors import ComplineError, GateError, UncheckedError
from engine.steps.context import StepResult
from engine.steps.runner import run_step

GROUP = "finance"
OWNERS = ["team:finance"]
SEAL = dg.AssetKey(["close", "seals"])


def build_dbt_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definition of every mart, as one operation that can be subsetted.

    Args:
        partitions: daily, by close date.
    """

    @dg.multi_asset(
        name="finance",
        specs=[_spec(mart, partitions) for mart in marts()],
        check_specs=[_check_spec(mart, test, partitions) for mart in marts() for test in mart.tests],
        can_subset=True,
        required_resource_keys={"close", "finance_db"},
    )
    def finance_marts(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        close: CloseResource = context.resources.close
        database: FinanceDatabase = context.resources.finance_db
        try:
            result = run_step(finance_step(database), close.context_for(context))
        except ComplineError as error:
            raise _failure(context, error) from error
        context.log.info(_line(result))
        yield from _materializations(context, result)
        yield from _checks(context, result)
        if result.status != "succeeded":
            raise _failure(context, _error(result))

    return [finance_marts]


def mart_key(name: str) -> dg.AssetKey:
    """The asset key of a mart: schema and table."""
    return dg.AssetKey([SCHEMA, name])


def _spec(mart: Mart, partitions: dg.PartitionsDefinition) -> dg.AssetSpec:
    columns = [dg.TableColumn(name, kind, description=text) for name, kind, text in mart.columns]
    return dg.AssetSpec(
        mart_key(mart.name),
        deps=[SEAL],
        description=mart.description,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"dbt", "postgres"},
        skippable=True,
        partitions_def=partitions,
        metadata={
            "dagster/column_schema": dg.TableSchema(columns=columns),
            "dagster/table_name": f"{SCHEMA}.{mart.name}",
        },
    )


def _check_spec(mart: Mart, test: MartTest, partitions: dg.PartitionsDefinition) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        test.name,
        asset=mart_key(mart.name),
        description=f"dbt test {test.kind} on {SCHEMA}.{mart.name}, for the close date of the run.",
        partitions_def=partitions,
    )


def _materializations(context: dg.AssetExecutionContext, result: StepResult) -> Iterator[dg.MaterializeResult]:
    for model in result.metadata["models"]:
        key = mart_key(model["model"])
        if model["status"] == "success" and key in context.selected_asset_keys:
            yield dg.MaterializeResult(
                asset_key=key,
                metadata={
                    "dagster/row_count": dg.MetadataValue.int(result.metadata["rows"].get(model["model"], 0)),
                    "unchanged": dg.MetadataValue.bool(result.unchanged),
                    "version": result.version,
                    "milliseconds": model["milliseconds"],
                    "project": result.metadata["project"],
                },
            )


def _checks(context: dg.AssetExecutionContext, result: StepResult) -> Iterator[dg.AssetCheckResult]:
    for test in result.metadata["tests"]:
        key = dg.AssetCheckKey(mart_key(test["model"]), test["name"])
        if key in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=test["status"] == "pass",
                description=test["message"] or None,
                metadata={
                    "status": test["status"],
                    "failing rows": test["failures"],
                    "milliseconds": test["milliseconds"],
                    "unchanged": dg.MetadataValue.bool(result.unchanged),
                },
            )


def _line(result: StepResult) -> str:
    rows = ", ".join(f"{name} {count} rows" for name, count in result.metadata["rows"].items())
    return f"finance of {result.close_date}: {'unchanged' if result.unchanged else result.status}, {rows}"


def _error(result: StepResult) -> ComplineError:
    kind = GateError if result.status == "failed" else UncheckedError
    return kind(
        f"finance of {result.close_date}: {'; '.join(result.metadata['broken'])}",
        rule="the marts are what the sealed books say, to the last unit",
        next_step="the seal stands; correct the model or the test and run finance of that date again",
    )


def _failure(context: dg.AssetExecutionContext, error: ComplineError) -> dg.Failure:
    context.log.error(str(error))
    shown: dict[str, Any] = {name: text for name, text in error.as_dict().items() if text}
    return dg.Failure(description=str(error), metadata=shown, allow_retries=False)
