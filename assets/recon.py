"""Stage recon: comparisons between sources, each writing its breaks and one verdict.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import custody_covers_liabilities, engine_vs_ledger, ledger_vs_custody, staking_vs_chain

GROUP = "recon"
COLUMNS = [
    ("gate", "text"),
    ("subject", "text"),
    ("asset", "text"),
    ("expected", "numeric(38,18)"),
    ("actual", "numeric(38,18)"),
    ("difference", "numeric(38,18)"),
]
COMPARED = (
    (engine_vs_ledger.STEP, "the engine against the ledger"),
    (ledger_vs_custody.STEP, "the ledger against every wallet, with what is in transit listed"),
    (custody_covers_liabilities.STEP, "what custody holds against what is owed"),
    (staking_vs_chain.STEP, "what users have staked against the contracts"),
)


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            step,
            key=("recon", step.name),
            group=GROUP,
            description=f"One row per break, and one verdict per close date: {what}.",
            partitions=partitions,
            columns=COLUMNS,
            deps=[("close", "user_balance_snapshots")],
        )
        for step, what in COMPARED
    ]
