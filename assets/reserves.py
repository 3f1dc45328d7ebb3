"""Stage reserves: the commitment to every customer's balance, and what covers it.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.recon import COMPARED
from assets.step_asset import step_asset
from engine.steps import attestations, liability_trees

GROUP = "reserves"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            liability_trees.STEP,
            key=("reserves", "liability_trees"),
            group=GROUP,
            description="One row per asset and close date: the sum tree over every customer's total.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("asset", "text"),
                ("height", "integer"),
                ("root", "text"),
                ("total", "numeric(38,18)"),
                ("accounts", "bigint"),
            ],
            deps=[*(("recon", step.name) for step, _ in COMPARED), ("positions", "unrealized_pnl")],
        ),
        step_asset(
            attestations.STEP,
            key=("reserves", "attestations"),
            group=GROUP,
            description="One row per attested address and close date: what it holds, and whether that counts.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("asset", "text"),
                ("chain", "text"),
                ("address", "text"),
                ("amount", "numeric(38,18)"),
                ("block_height", "bigint"),
                ("block_hash", "text"),
                ("ownership", "text"),
                ("stated", "numeric(38,18)"),
                ("reason", "text"),
            ],
            deps=[("reserves", "liability_trees")],
        ),
    ]
