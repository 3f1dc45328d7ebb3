"""All asset definitions of a close, stage by stage.

What belongs here: the list of stages. What does not: finance (dbt), which the assembly adds.
"""

from __future__ import annotations

import dagster as dg

from assets import capture, ledger, lifecycle, positions, recon, reserves, seal, snapshots

STAGES = (capture, ledger, positions, snapshots, recon, lifecycle, reserves, seal)


def build_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Every definition, in the order of the stages."""
    return [definition for stage in STAGES for definition in stage.build(partitions)]
