"""The steps of a close in their order.

What belongs here: the list. What does not: the graph that Dagster draws from it (see `assets`).
"""

from __future__ import annotations

from engine.steps import (
    attestations,
    control_totals,
    custody_covers_liabilities,
    custody_movements,
    cutoff,
    engine_balances,
    engine_vs_ledger,
    evidence_packs,
    fee_accruals,
    inclusion_proofs,
    ledger_vs_custody,
    liability_trees,
    lots,
    mark_prices,
    reactivations,
    realized_pnl,
    reward_accruals,
    screening_hits,
    seals,
    staking_totals,
    staking_vs_chain,
    unrealized_pnl,
    user_balance_snapshots,
    volume_30d,
    wallet_balances,
)
from engine.steps.context import Step, StepContext, StepResult
from engine.steps.runner import run_step

STEPS: tuple[Step, ...] = (
    cutoff.STEP,
    engine_balances.STEP,
    mark_prices.STEP,
    wallet_balances.STEP,
    staking_totals.STEP,
    custody_movements.STEP,
    fee_accruals.STEP,
    reward_accruals.STEP,
    control_totals.STEP,
    lots.STEP,
    realized_pnl.STEP,
    unrealized_pnl.STEP,
    volume_30d.STEP,
    user_balance_snapshots.STEP,
    engine_vs_ledger.STEP,
    ledger_vs_custody.STEP,
    custody_covers_liabilities.STEP,
    staking_vs_chain.STEP,
    screening_hits.STEP,
    reactivations.STEP,
    liability_trees.STEP,
    attestations.STEP,
    seals.STEP,
    inclusion_proofs.STEP,
    evidence_packs.STEP,
)


def run_all(context: StepContext) -> list[StepResult]:
    """Run the steps of a day in order, stopping at the first that does not hold.

    Args:
        context: with the epoch of a held lease.

    Returns:
        The results, the stopping one last.
    """
    done: list[StepResult] = []
    for step in STEPS:
        done.append(run_step(step, context))
        if done[-1].status != "succeeded":
            break
    return done
