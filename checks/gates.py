"""The gates as asset checks: each reads the verdict that the database computed and shows it beside its runbook.

What belongs here: one blocking check a gate, on the definition whose step writes the verdict.
What does not: judging (see `recon.judge` in the schema). A check stops its own run; the seal asks the database again.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import dagster as dg

from checks.closing import BookResource, runbook, table, text
from engine.clock import parse_close_date
from engine.close import policy
from engine.store import days
from engine.store.connect import typed_errors
from engine.store.days import Gate

GATES: dict[str, tuple[tuple[str, str], str]] = {
    policy.DEBITS_EQUAL_CREDITS: (
        ("ledger", "control_totals"),
        "Debits equal credits per asset, every journal is as it was posted, every trade has its journal.",
    ),
    policy.FEE_CLEARING_SWEPT: (
        ("ledger", "control_totals"),
        "Fee clearing is zero after the sweep, and income is the sum of the trades' fees.",
    ),
    policy.MARKS_FRESH: (
        ("ledger", "control_totals"),
        "Every asset held has a closing mark within the policy's age.",
    ),
    policy.QUANTITY_IDENTITY: (
        ("positions", "realized_pnl"),
        "Per user and asset, opening plus what came less what went is what the ledger has, and lots sum to it.",
    ),
    policy.VALUE_IDENTITY: (
        ("positions", "unrealized_pnl"),
        "Per user, flows, realised and unrealised gains and fees explain the value at the closing marks, exactly.",
    ),
    policy.ENGINE_VS_LEDGER: (
        ("recon", "engine_vs_ledger"),
        "The engine's balances at the barrier equal the ledger's, account by account, and its fees too.",
    ),
    policy.LEDGER_VS_CUSTODY: (
        ("recon", "ledger_vs_custody"),
        "Every wallet's reading is the ledger's account of it; what is in transit is listed, young, and explained.",
    ),
    policy.CUSTODY_COVERS_LIABILITIES: (
        ("recon", "custody_covers_liabilities"),
        "What custody holds beside what is in transit covers what customers and others are owed, per asset.",
    ),
    policy.STAKING_VS_CHAIN: (
        ("recon", "staking_vs_chain"),
        "What the staking contracts hold at the finalised block is what users have staked in the ledger.",
    ),
    policy.REWARDS_AS_ACCRUED: (
        ("ledger", "control_totals"),
        "Every reward is its share of stake-time, their sum is what the pot paid, and none was credited unasked.",
    ),
    policy.TREES_EQUAL_CONTROL_TOTALS: (
        ("reserves", "liability_trees"),
        "The sum of a tree's leaves is the control total of class customer, and that of the snapshots.",
    ),
    policy.RESERVES_COVER_LIABILITIES: (
        ("reserves", "attestations"),
        "Attested reserves are at least what is owed, for every asset.",
    ),
}
"""Gate -> the asset key whose step has it judged, and the invariant in words."""


def build_gate_checks(partitions: dg.PartitionsDefinition) -> list[dg.AssetChecksDefinition]:
    """One blocking check a gate.

    Args:
        partitions: those of the close.
    """
    return [_gate_check(gate, key, invariant, partitions) for gate, (key, invariant) in GATES.items()]


def _gate_check(
    gate: str, key: Sequence[str], invariant: str, partitions: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(list(key)),
        name=gate,
        description=f"{invariant} Reads the verdict for the books hash in force; a waiver is shown, never a pass.",
        blocking=True,
        required_resource_keys={"close"},
        partitions_def=partitions,
    )
    def _check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        close: BookResource = context.resources.close
        day = parse_close_date(context.partition_key)
        with closing(close.connect()) as connection, typed_errors():
            found = [one for one in days.gates(connection, day) if one.gate == gate]
        result = gate_result(gate, found, str(day))
        (context.log.info if result.passed else context.log.error)(str(result.description))
        return result

    return _check


def gate_result(gate: str, found: Sequence[Gate], day: str) -> dg.AssetCheckResult:
    """What a gate's rows come to: passed while every scope stands, by verdict or by waiver.

    Args:
        gate: its name.
        found: its rows for the books hash in force; none where the policy does not require it.
        day: the close date, for the command shown.
    """
    return dg.AssetCheckResult(
        # A gate that the policy does not name makes no claim and stops nothing; the core must stand.
        passed=all(one.stands for one in found) and (bool(found) or gate not in policy.CORE_GATES),
        severity=dg.AssetCheckSeverity.ERROR,
        description=_sentence(gate, found, day),
        metadata={
            "verdict": ", ".join(_verdict(one) for one in found) or "not required by the policy, not judged",
            **{f"detail of {one.scope}": table(_details(one)) for one in found if one.detail},
            "runbook": runbook(gate),
            "look": f"compline close status {day}",
        },
    )


def _sentence(gate: str, found: Sequence[Gate], day: str) -> str:
    if not found:
        what = "could not be checked" if gate in policy.CORE_GATES else "is not judged"
        return f"{gate} of {day} {what}: the policy in force does not name it"
    return "; ".join(f"{gate} of {day}: {_verdict(one)}" for one in found)


def _verdict(one: Gate) -> str:
    said = "unknown: it could not be checked" if one.verdict == "unknown" else one.verdict
    return f"{said}, waived by waiver {one.waiver}" if one.waiver else said


def _details(one: Gate) -> list[dict[str, Any]]:
    return [
        {"what": name, "value": text(part)}
        for name, value in one.detail.items()
        for part in (value if isinstance(value, list) and value else [value])
    ]
