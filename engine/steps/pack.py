"""A pack that was read: its manifest, its tables, and its journals as the ledger knows them.

What belongs here: access to what a pack says, refused by name where it does not say it.
What does not: the zip (see `engine.reserves.pack`), and whether what it says is so (see `replay_audit`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from engine.clock import to_us
from engine.errors import InputError
from engine.ledger.journal import Journal, Leg
from engine.reserves.manifest import Manifest, parse_manifest


@dataclass(frozen=True)
class Pack:
    """A pack's files and its manifest."""

    files: Mapping[str, bytes]

    @property
    def manifest(self) -> Manifest:
        """The manifest, read strictly."""
        return parse_manifest(self._part("manifest.json"))

    def rows(self, name: str) -> Any:
        """The content of a JSON file."""
        try:
            return json.loads(self._part(name))
        except (ValueError, RecursionError):
            raise InputError(f"{name} of the pack is not JSON", next_step="get the pack again") from None

    def _part(self, name: str) -> bytes:
        if name not in self.files:
            raise InputError(f"the pack has no {name}", next_step="get the pack again")
        return self.files[name]

    @property
    def close_journals(self) -> list[Journal]:
        """The journals that no engine event gives."""
        try:
            return [self._journal(one) for one in self.rows("close_journals.json")]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"close_journals.json cannot be read: {error!r}", next_step="get the pack again") from None

    def _journal(self, one: dict[str, Any]) -> Journal:
        return Journal(
            kind=one["kind"],
            reference_type=one["reference_type"],
            reference_id=one["reference_id"],
            engine_seq=None,
            effective_us=to_us(datetime.fromisoformat(one["effective_at"])),
            close_date=date.fromisoformat(self.manifest.header.close_date),
            origin=one["origin"],
            reason=one["reason"],
            legs=tuple(Leg(leg["account"], leg["asset"], int(leg["amount"])) for leg in one["legs"]),
        )
