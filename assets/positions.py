"""Stage positions: what users traded and hold over time.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import volume_30d

GROUP = "positions"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            volume_30d.STEP,
            key=("positions", "volume_30d"),
            group=GROUP,
            description="One row per user and close date: volume of the 30 close dates that end with it.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("user_id", "bigint"),
                ("day_volume", "numeric(38,18)"),
                ("volume", "numeric(38,18)"),
            ],
            deps=[("ledger", "control_totals")],
        )
    ]
