"""The books hash: five tables of a day in 32 bytes.

What belongs here: joining the tables' digests. Source: docs of the proof of reserves, Books hash.
What does not: the tables' rows (the database digests its own, `engine.steps.replay_audit` those of a replay).
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.canonical import sha256_jcs

TABLES = ("journals", "balances", "marks", "readings", "engine_balances")


def books_sha256(close_date: str, version: int, barrier_seq: int, policy_sha256: str, tables: Mapping[str, str]) -> str:
    """Hex books hash of a day.

    Args:
        close_date: YYYY-MM-DD.
        version: of the close.
        barrier_seq: of the cut-off command.
        policy_sha256: of the policy in force, hex.
        tables: hex digest of each of `TABLES`.
    """
    return sha256_jcs(
        {
            "v": "books/1",
            "close_date": close_date,
            "version": version,
            "barrier_seq": barrier_seq,
            "policy_sha256": policy_sha256,
            **{name: tables[name] for name in TABLES},
        }
    )
