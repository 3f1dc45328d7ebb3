"""The snapshots of a served exchange, taken by a process beside it: while a state is packed, no order is answered.

What belongs here: which cut-offs are due, that process's start, and what it does.
What does not: what is in a snapshot (see `engine.exchange.snapshot`).

A snapshot only saves time. One that was not taken, because the exchange was killed or the disk refused, is taken when
the exchange is opened again; until then whoever needs that state replays the journal from the one before.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from engine.exchange import snapshots
from engine.exchange.engine import ExchangeEngine

_BEHIND_OTHERS = 10
"""How nice the process is: orders and settlement go first."""


class SnapshotKeeper:
    """Has the state of each cut-off kept, in order.

    Args:
        directory: of the exchange.

    Attributes:
        failed: how many processes ended otherwise than well.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._due: list[int] = []
        self._wake = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._taking: list[int] = []
        self.failed = 0

    def keep(self, engine: ExchangeEngine) -> None:
        """Have the state at this sequence kept; it is durable in the journal."""
        self._due.append(engine.last_seq)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """How many snapshots are due or being taken."""
        return len(self._due) + len(self._taking)

    async def run(self) -> None:
        """Have them taken until cancelled; a process under way is ended then."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._taking, self._due = self._due, []
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(self._directory), *map(str, self._taking)],
                    stdin=subprocess.DEVNULL,
                )
                self.failed += await asyncio.to_thread(self._process.wait) != 0
                self._taking = []
        finally:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.wait()


if __name__ == "__main__":
    os.nice(_BEHIND_OTHERS)
    snapshots.take(Path(sys.argv[1]), [int(seq) for seq in sys.argv[2:]])
