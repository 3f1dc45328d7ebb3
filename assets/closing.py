"""What the asset definitions ask of whoever assembles them.

What belongs here: the protocol of the `close` resource, and the tag that asks for a new capture.
What does not: the resource itself (see `pipelines.resources`).
"""

from __future__ import annotations

from typing import Protocol

import dagster as dg

from engine.steps.context import StepContext

RECAPTURE_TAG = "compline/recapture"
"""Set to `true` on a run to read the captures again although their inputs look unchanged."""


class CloseResource(Protocol):
    """Gives a run its context: the book, its policy, and the lease on the date it closes."""

    def context_for(self, context: dg.AssetExecutionContext) -> StepContext:
        """The step context of a run's partition, holding the lease from the first call to the end of the run."""
        ...
