"""Tolerances: how far two outside sources may differ, with two people and an end.

What belongs here: reading them, and the database's functions that set and end one.
What does not: where one was used (the gates say it in their verdicts).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import psycopg

from engine.clock import iso_us
from engine.money import text_of


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One gate's tolerance in one asset; the larger of both figures holds.

    Attributes:
        absolute: in the asset's units.
        bps: basis points of the outside figure.
        in_force: whether its end has not come.
        maker: who asked; unknown for rows of before two were asked for.
    """

    gate: str
    asset: str
    absolute: Decimal
    bps: int
    expires_at: datetime
    in_force: bool
    maker: str | None
    approver: str
    reason: str | None

    def as_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "gate": self.gate,
            "asset": self.asset,
            "absolute": text_of(self.absolute),
            "bps": self.bps,
            "state": "in force" if self.in_force else "expired",
            "until": iso_us(self.expires_at),
            "maker": self.maker,
            "approver": self.approver,
            "reason": self.reason,
        }


def every(connection: psycopg.Connection) -> list[Tolerance]:
    """Every tolerance, those past their end too, by gate and asset."""
    rows = connection.execute(
        "SELECT gate, asset, absolute, bps, CASE WHEN isfinite(expires_at) THEN expires_at ELSE '9999-12-31Z' END,"
        " expires_at > clock_timestamp(), maker, approver, reason FROM recon.tolerances ORDER BY gate, asset"
    )
    return [Tolerance(*row) for row in rows]


def history(connection: psycopg.Connection) -> list[dict[str, object]]:
    """Every time that one was set or ended, the oldest first; JSON-ready."""
    rows = connection.execute(
        "SELECT close.iso_us(at), what, gate, asset, trim_scale(absolute)::text, bps, close.iso_us(expires_at), maker,"
        " approver, reason FROM recon.tolerance_events ORDER BY event_id"
    )
    names = ("at", "what", "gate", "asset", "absolute", "bps", "until", "maker", "approver", "reason")
    return [dict(zip(names, row, strict=True)) for row in rows]


def put(
    connection: psycopg.Connection,
    gate: str,
    asset: str,
    absolute: Decimal,
    bps: int,
    until: datetime,
    why: str,
    who: str,
    second: str,
) -> None:
    """Set a tolerance as the owner, in place of the one before.

    Raises:
        GateError: two different people are not named, the gate takes none, or it does not end within 366 days.
    """
    connection.execute(
        "SELECT recon.set_tolerance(%s, %s, %s, %s, %s, %s, %s, %s)",
        (gate, asset, absolute, bps, until, why, who, second),
    )


def expire(connection: psycopg.Connection, gate: str, asset: str, why: str, who: str, second: str) -> None:
    """End a tolerance now, as the owner.

    Raises:
        GateError: none is in force, or two different people are not named.
    """
    connection.execute("SELECT recon.expire_tolerance(%s, %s, %s, %s, %s)", (gate, asset, why, who, second))
