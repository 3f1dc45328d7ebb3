"""Stage lifecycle: what a day's end does to accounts.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import reactivations, screening_hits

GROUP = "lifecycle"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            screening_hits.STEP,
            key=("accounts", "screening_hits"),
            group=GROUP,
            description="One row per user and entry of a sanctions list: the version, what matched, what came of it.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("user_id", "bigint"),
                ("list_version", "text"),
                ("entry", "text"),
                ("hold_id", "bigint"),
                ("list", "text"),
                ("matched", "text"),
                ("score", "integer"),
                ("transition_version", "bigint"),
            ],
            deps=[("recon", "engine_vs_ledger")],
        ),
        step_asset(
            reactivations.STEP,
            key=("accounts", "reactivations"),
            group=GROUP,
            description="One row of history per suspended user whom a new review cleared, and per closure that ended.",
            partitions=partitions,
            columns=[("user_id", "bigint"), ("version", "bigint"), ("to_state", "text")],
            deps=[("accounts", "screening_hits")],
        ),
    ]
