"""Stage capture: the barrier, the engine's balances at it, one mark per asset, readings of the outside.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import cutoff, engine_balances, mark_prices, staking_totals, wallet_balances

GROUP = "capture"
POOL = "close"
"""One run at a time holds it: a backfill closes days oldest first."""


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            cutoff.STEP,
            key=("close", "cutoff"),
            group=GROUP,
            description="One row per close date: the engine sequence that ends it, with everything before it settled.",
            partitions=partitions,
            columns=[("close_date", "date"), ("barrier_seq", "bigint"), ("cutoff_at", "timestamptz")],
            pool=POOL,
        ),
        step_asset(
            engine_balances.STEP,
            key=("exchange", "engine_balances"),
            group=GROUP,
            description="One row per account, asset and close date: what the matching engine says at the barrier.",
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
            ],
            deps=[("close", "cutoff")],
        ),
        step_asset(
            mark_prices.STEP,
            key=("market", "mark_prices"),
            group=GROUP,
            description="One row per asset held and close date: its closing mark in the reporting currency.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("asset", "text"),
                ("price", "numeric(38,18)"),
                ("source", "text"),
                ("at", "timestamptz"),
            ],
            deps=[("exchange", "engine_balances")],
        ),
        step_asset(
            wallet_balances.STEP,
            key=("custody", "wallet_balances"),
            group=GROUP,
            description="One row per custody wallet, asset and close date: the stored reading at the cut-off.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("wallet", "text"),
                ("asset", "text"),
                ("balance", "numeric(38,18)"),
                ("reading_id", "bigint"),
            ],
            deps=[("close", "cutoff")],
        ),
        step_asset(
            staking_totals.STEP,
            key=("chain", "staking_totals"),
            group=GROUP,
            description="One row per staking contract and close date: its total at the finalised block, with its hash.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("contract", "text"),
                ("asset", "text"),
                ("total", "numeric(38,18)"),
                ("block_height", "bigint"),
                ("block_hash", "text"),
                ("reading_id", "bigint"),
            ],
            deps=[("close", "cutoff")],
        ),
    ]
