"""Stage recon: comparisons between sources, each writing its breaks and one verdict.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import engine_vs_ledger

GROUP = "recon"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            engine_vs_ledger.STEP,
            key=("recon", "engine_vs_ledger"),
            group=GROUP,
            description="One row per break, and one verdict per close date: the engine against the ledger.",
            partitions=partitions,
            columns=[
                ("gate", "text"),
                ("subject", "text"),
                ("asset", "text"),
                ("expected", "numeric(38,18)"),
                ("actual", "numeric(38,18)"),
                ("difference", "numeric(38,18)"),
            ],
            deps=[("close", "user_balance_snapshots")],
        )
    ]
