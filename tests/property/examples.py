"""How many examples a property is tried on: some at every run, many where there is time (`make faults`)."""

from __future__ import annotations

import os

from hypothesis import settings

MANY = os.environ.get("COMPLINE_EXAMPLES") == "many"


def examples(some: int, many: int) -> settings:
    """Settings of one property; the seeds differ from run to run, so runs add up."""
    return settings(max_examples=many if MANY else some, deadline=None)
