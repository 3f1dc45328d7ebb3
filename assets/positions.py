"""Stage positions: what users traded and hold over time, what it cost and what it is worth.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import lots, realized_pnl, unrealized_pnl, volume_30d
from engine.valuation.day import GAIN_COLUMNS

GROUP = "positions"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            lots.STEP,
            key=("positions", "lots"),
            group=GROUP,
            description="One row per lot of a position that changed on the close date, as the date left it.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("user_id", "bigint"),
                ("asset", "text"),
                ("lot_seq", "bigint"),
                ("lot_no", "integer"),
                ("acquired_on", "date"),
                ("acquired_quantity", "numeric(38,18)"),
                ("acquired_cost", "numeric(38,18)"),
                ("quantity", "numeric(38,18)"),
                ("cost", "numeric(38,18)"),
            ],
            deps=[("ledger", "control_totals")],
        ),
        step_asset(
            realized_pnl.STEP,
            key=("positions", "realized_pnl"),
            group=GROUP,
            description="One row per user and asset that changed on the close date: flows, realised gain, the rest.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("user_id", "bigint"),
                ("asset", "text"),
                *((name.strip(), "numeric(38,18)") for name in GAIN_COLUMNS.split(",")),
            ],
            deps=[("positions", "lots")],
        ),
        step_asset(
            unrealized_pnl.STEP,
            key=("positions", "unrealized_pnl"),
            group=GROUP,
            description="One row per user and asset held at the cut-off: cost, mark, value and unrealised gain.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("user_id", "bigint"),
                ("asset", "text"),
                ("quantity", "numeric(38,18)"),
                ("cost", "numeric(38,18)"),
                ("mark", "numeric(38,18)"),
                ("value", "numeric(38,18)"),
                ("unrealized", "numeric(38,18)"),
                ("lots_date", "date"),
                ("lots_version", "integer"),
            ],
            deps=[("positions", "realized_pnl")],
        ),
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
        ),
    ]
