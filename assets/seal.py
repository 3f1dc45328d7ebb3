"""Stage seal: the signed manifest in the log, then the files made from it.

What belongs here: the definitions of this stage. What does not: the steps (see `engine.steps`).
"""

from __future__ import annotations

import dagster as dg

from assets.step_asset import step_asset
from engine.steps import evidence_packs, inclusion_proofs, seals

GROUP = "seal"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The definitions of the stage."""
    return [
        step_asset(
            seals.STEP,
            key=("close", "seals"),
            group=GROUP,
            description="One row per close date and version: the signed manifest and its place in the log.",
            partitions=partitions,
            columns=[
                ("close_date", "date"),
                ("version", "integer"),
                ("books_sha256", "text"),
                ("manifest", "text"),
                ("signature", "text"),
                ("key_id", "text"),
                ("snapshot_root", "text"),
                ("log_index", "bigint"),
                ("checkpoint", "text"),
            ],
            deps=[("reserves", "attestations"), ("positions", "volume_30d"), ("accounts", "reactivations")],
        ),
        step_asset(
            inclusion_proofs.STEP,
            key=("reserves", "inclusion_proofs"),
            group=GROUP,
            description="One sealed record per account and close date, in shards that can be served to anyone.",
            partitions=partitions,
            columns=[("shard", "text"), ("sha256", "text")],
            deps=[("close", "seals")],
            kinds=("file",),
        ),
        step_asset(
            evidence_packs.STEP,
            key=("close", "evidence_packs"),
            group=GROUP,
            description="One folder per close date and version: manifest, signature, checkpoint and gates, from rows.",
            partitions=partitions,
            columns=[("file", "text"), ("sha256", "text")],
            deps=[("close", "seals")],
            kinds=("file",),
        ),
    ]
