"""Stage snapshots: what every user had at the cut-off and what it was worth.

What belongs here: the definition of this stage. What does not: the step (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import user_balance_snapshots

GROUP = "snapshots"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            user_balance_snapshots.STEP,
            key=("close", "user_balance_snapshots"),
            group=GROUP,
            description="One row per user, asset and close date: balances at the cut-off, mark and value.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("account", "text"),
                ("asset", "text"),
                ("available", "numeric(38,18)"),
                ("locked", "numeric(38,18)"),
                ("staked", "numeric(38,18)"),
                ("in_transit", "numeric(38,18)"),
                ("total", "numeric(38,18)"),
                ("mark", "numeric(38,18)"),
                ("value", "numeric(38,18)"),
                ("row_hash", "bytea"),
            ],
            deps=[("ledger", "control_totals")],
        )
    ]
