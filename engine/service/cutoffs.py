"""When days end, kept beside the journal: the service's own copy of what the policies say.

What belongs here: that file. What does not: the policies (see `engine.store.books`) and the rule itself (see
`engine.clock`). With it a service starts, and cuts days off, while Postgres is away.
"""

from __future__ import annotations

import json
from pathlib import Path

from engine.clock import CutOffSchedule
from engine.errors import ComplineError

FILE_NAME = "cutoffs.json"
Texts = list[tuple[str, str]]
"""First close date and cut-off of each policy."""


def read_cutoffs(directory: Path) -> CutOffSchedule | None:
    """The schedule kept last; None where there is none that can be read."""
    try:
        return CutOffSchedule.of(json.loads((directory / FILE_NAME).read_text()))
    except (OSError, ValueError, TypeError, ComplineError):
        return None


def keep_cutoffs(directory: Path, texts: Texts) -> CutOffSchedule:
    """Keep a schedule and give it back.

    Raises:
        ConfigError: it cannot be read.
    """
    schedule = CutOffSchedule.of(texts)
    draft = directory / f".{FILE_NAME}"
    draft.write_text(json.dumps(texts))
    draft.replace(directory / FILE_NAME)
    return schedule
