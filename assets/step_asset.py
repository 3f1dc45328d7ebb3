"""How a step of the close becomes an asset definition: run it, and show what an operator would look at.

What belongs here: the one factory, and the metadata of a result.
What does not: the list of definitions (one file a stage beside this one).
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import dagster as dg

from assets.closing import CloseResource
from engine.errors import ComplineError
from engine.steps.context import Step, StepResult
from engine.steps.runner import run_step

OWNERS = ["team:close"]


def step_asset(
    step: Step,
    *,
    key: Sequence[str],
    group: str,
    description: str,
    partitions: dg.PartitionsDefinition,
    columns: Sequence[tuple[str, str]],
    deps: Sequence[Sequence[str]] = (),
    kinds: Sequence[str] = ("postgres",),
    pool: str | None = None,
) -> dg.AssetsDefinition:
    """An asset definition that runs one step for its partition's close date.

    Args:
        step: from `engine.steps`.
        key: [schema, table] of what it writes.
        group: stage of the close.
        description: the grain in the first sentence.
        partitions: daily, by close date.
        columns: (name, type) of what it writes.
        deps: keys that must be there before.
        kinds: tags for the picture, at most three.
        pool: limits how many runs do this at once.
    """
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kind) for name, kind in columns])

    @dg.asset(
        name=key[-1],
        key_prefix=list(key[:-1]),
        group_name=group,
        description=description,
        partitions_def=partitions,
        deps=[dg.AssetKey(list(dep)) for dep in deps],
        owners=OWNERS,
        kinds=set(kinds),
        pool=pool,
        metadata={"dagster/column_schema": schema, "dagster/table_name": ".".join(key)},
        required_resource_keys={"close"},
    )
    def _asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        close: CloseResource = context.resources.close
        try:
            result = run_step(step, close.context_for(context))
        except ComplineError as error:
            context.log.error(str(error))
            raise dg.Failure(
                description=str(error),
                metadata={name: text for name, text in error.as_dict().items() if text},
                allow_retries=False,
            ) from error
        context.log.info(
            f"{result.step} of {result.close_date}: {'unchanged' if result.unchanged else result.status}, "
            f"{result.rows} rows"
        )
        return dg.MaterializeResult(metadata=metadata_of(result))

    return _asset


def metadata_of(result: StepResult) -> dict[str, Any]:
    """A result for Dagster's page: exact text, tables for lists, and floats beside amounts for the plots alone."""
    shown: dict[str, Any] = {
        "dagster/row_count": dg.MetadataValue.int(result.rows),
        "status": result.status,
        "unchanged": dg.MetadataValue.bool(result.unchanged),
        "version": result.version,
    }
    if result.output_digest:
        shown["output_digest"] = result.output_digest
    for name, value in result.metadata.items():
        shown[name] = _shown(value)
        if isinstance(value, dict) and name == "income":
            shown |= {f"plot {name} {asset}": float(Decimal(text)) for asset, text in value.items()}
        if name == "value":
            shown["plot value"] = float(Decimal(value))
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        records = [dg.TableRecord({k: _cell(v) for k, v in item.items()}) for item in value]
        return dg.MetadataValue.table(
            records, schema=dg.TableSchema([dg.TableColumn(name, "string") for name in value[0]])
        )
    if isinstance(value, bool) or value is None:
        return dg.MetadataValue.text(json.dumps(value))
    if isinstance(value, int | str):
        return value
    return dg.MetadataValue.json(value)


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
