"""Every asset check of a code location.

What belongs here: the list. What does not: dbt's tests, which come with the marts (see `assets.finance`).
"""

from __future__ import annotations

import dagster as dg

from checks.gates import build_gate_checks
from checks.input_shape import build_input_shape_check


def build_checks(partitions: dg.PartitionsDefinition) -> list[dg.AssetChecksDefinition]:
    """The checks on the definitions of a close.

    Args:
        partitions: daily, by close date.
    """
    return [*build_gate_checks(partitions), build_input_shape_check(partitions)]
