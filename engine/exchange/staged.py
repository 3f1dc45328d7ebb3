"""Rows of a batch of tiers that wait for the command that puts them in force.

What belongs here: the rows, their number and their digest.
What does not: what makes a batch valid (see `configuration`), and the rows' bytes (see `tier_records`).

The digest is SHA-256 over a line a tier, `tier:maker:taker`, and a line an account, `tier:account`, each ended by a
line feed, in the order of the rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from engine.exchange import commands as cmd

Rates = tuple[int, int, int]
"""Tier, maker and taker rate in parts per million."""
Members = tuple[int, tuple[int, ...]]
"""Tier, and accounts that move to it."""


@dataclass(slots=True)
class StagedTiers:
    """One unfinished batch.

    Attributes:
        batch: its number.
        rows: in the order in which they came.
    """

    batch: int
    rows: list[cmd.TierRow] = field(default_factory=list)
    # The rows come between orders, their end in one command: what can be summed before it is.
    _digest: Any = field(default_factory=hashlib.sha256)
    _accounts: int = 0

    def add(self, row: cmd.TierRow) -> None:
        """Stage the next row."""
        self.rows.append(row)
        if isinstance(row, cmd.StageTier):
            text = f"{row.tier}:{row.maker_rate_ppm}:{row.taker_rate_ppm}\n"
        else:
            text = "".join([f"{row.tier}:{account}\n" for account in row.accounts])
            self._accounts += len(row.accounts)
        self._digest.update(text.encode())

    @property
    def counts(self) -> tuple[int, int]:
        """How many tiers and how many accounts."""
        return sum(1 for row in self.rows if isinstance(row, cmd.StageTier)), self._accounts

    @property
    def rates(self) -> tuple[Rates, ...]:
        """The rates of every tier that the batch sets."""
        return tuple(
            (row.tier, row.maker_rate_ppm, row.taker_rate_ppm) for row in self.rows if isinstance(row, cmd.StageTier)
        )

    @property
    def accounts(self) -> tuple[Members, ...]:
        """The accounts that the batch moves, by row."""
        return tuple((row.tier, row.accounts) for row in self.rows if isinstance(row, cmd.StageAccountTiers))

    def is_what(self, command: cmd.SetTiers) -> bool:
        """Whether a command names these rows, all of them and nothing else."""
        found = (self.batch, *self.counts, self._digest.hexdigest())
        return found == (command.batch, command.tiers, command.accounts, command.sha256)
