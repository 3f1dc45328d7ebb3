"""Stage ledger: the close's own journals and the trial balance.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import control_totals, custody_movements, fee_accruals, reward_accruals

GROUP = "ledger"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            fee_accruals.STEP,
            key=("ledger", "fee_accruals"),
            group=GROUP,
            description="One row per user, asset, role and close date: fees swept from clearing into income.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("user_id", "bigint"),
                ("asset", "text"),
                ("role", "text"),
                ("amount", "numeric(38,18)"),
                ("trades", "bigint"),
            ],
            deps=[("close", "cutoff")],
        ),
        step_asset(
            reward_accruals.STEP,
            key=("ledger", "reward_accruals"),
            group=GROUP,
            description="One row per user, asset and close date: the staking reward owed, credited after the seal.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("user_id", "bigint"),
                ("asset", "text"),
                ("amount", "numeric(38,18)"),
            ],
            deps=[("ledger", "fee_accruals"), ("market", "mark_prices")],
        ),
        step_asset(
            custody_movements.STEP,
            key=("ledger", "custody_movements"),
            group=GROUP,
            description="One journal per network fee and per movement between wallets, from the wallets' own lists.",
            partitions=partitions,
            columns=[
                ("kind", "text"),
                ("key", "text"),
                ("wallet", "text"),
                ("asset", "text"),
                ("amount", "numeric(38,18)"),
            ],
            deps=[("custody", "wallet_balances")],
        ),
        step_asset(
            control_totals.STEP,
            key=("ledger", "control_totals"),
            group=GROUP,
            description="One row per asset, liability class and close date: the trial balance behind the books hash.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("asset", "text"),
                ("liability_class", "text"),
                ("opening", "numeric(38,18)"),
                ("debits", "numeric(38,18)"),
                ("credits", "numeric(38,18)"),
                ("closing", "numeric(38,18)"),
                ("accounts", "bigint"),
            ],
            deps=[
                ("ledger", "fee_accruals"),
                ("ledger", "reward_accruals"),
                ("ledger", "custody_movements"),
                ("exchange", "engine_balances"),
                ("chain", "staking_totals"),
            ],
        ),
    ]
