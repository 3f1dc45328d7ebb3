"""Python's garbage collector in processes that close days.

What belongs here: how often it looks. What does not: anything of the books.
"""

from __future__ import annotations

import atexit
import gc
from functools import cache

THRESHOLDS = (50_000, 20, 50)


@cache
def look_seldom() -> None:
    """Let the collector look seldom, and at nothing when the process ends.

    Dagster, dbt and Great Expectations are a million objects that live as long as the process. Python looks through
    them again and again while they are loaded (a quarter of that time), and at the end once more (1 s).
    """
    gc.set_threshold(*THRESHOLDS)
    atexit.register(gc.freeze)
