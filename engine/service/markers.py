"""When there is a marker: the service's own clock, and what its metrics say of the last one.

What belongs here: how often, and gauges. What does not: journalling a marker (see `desk`), comparing (see `comparing`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from engine import clock

_LOOK_S = 0.25
VERDICTS = {"pass": 0, "fail": 1, "unknown": 2}
"""As exit codes have them."""


class MarkerTimer:
    """Calls for a marker every so often.

    Args:
        every_s: seconds between two, whatever is followed; None: what is followed. 0 is never.
        rule: seconds between two and seconds that one may wait, to begin with.
        mark: called when one is due.

    Attributes:
        deadline_s: seconds that a marker may wait for settlement.
    """

    def __init__(self, every_s: int | None, rule: tuple[int, int], mark: Callable[[], None]) -> None:
        self._fixed_s = every_s
        self._every_s, self.deadline_s = rule
        self._mark = mark

    @property
    def every_s(self) -> int:
        """Seconds between two markers; 0: there are none."""
        return self._every_s if self._fixed_s is None else self._fixed_s

    def follow(self, every_s: int, deadline_s: int) -> None:
        """Go by another policy from now on."""
        self._every_s, self.deadline_s = every_s, deadline_s

    async def run(self) -> None:
        """Call until cancelled."""
        since = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            if self.every_s and now - since >= self.every_s:
                since = now
                self._mark()


def marker_gauges(status: dict[str, Any]) -> dict[str, int]:
    """What a scrape says of markers; one that is overdue is unknown, also where the database cannot be told so."""
    last = status.get("marker") or {}
    found = {
        "markers_waiting": int(status.get("markers_waiting", 0)),
        "markers_overdue": int(status.get("markers_overdue", 0)),
    }
    if last:
        found["marker_sequence"] = int(last["seq"])
        found["marker_age_seconds"] = max(0, int(clock.now().timestamp()) - int(last["at"]))
        found["marker_verdict"] = VERDICTS["unknown"] if found["markers_overdue"] else VERDICTS[last["verdict"]]
    return found
