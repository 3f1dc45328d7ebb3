"""The append-only log of manifests: pymerkle's tree over `reserves.log_entries`.

What belongs here: storage of leaves and the appending of one inside the seal's transaction.
What does not: proofs in the form of RFC 9162 and checkpoints (see `engine.reserves`).
"""

from __future__ import annotations

import psycopg
from pymerkle.core import BaseMerkleTree

from engine.reserves.log_check import LogRow


class ManifestLog(BaseMerkleTree):  # type: ignore[misc]
    """RFC 6962 tree whose leaves are manifests; appends happen in the caller's transaction.

    Args:
        connection: open transaction of the seal, or any connection for reading.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        super().__init__(algorithm="sha256")

    def _encode_entry(self, data: bytes) -> bytes:
        return data

    def _store_leaf(self, data: bytes, digest: bytes) -> int:
        index = self._get_size()
        self._connection.execute(
            "INSERT INTO reserves.log_entries (log_index, entry, leaf_hash) VALUES (%s, %s, %s)", (index, data, digest)
        )
        return index + 1

    def _get_leaf(self, index: int) -> bytes:
        row = self._connection.execute(
            "SELECT leaf_hash FROM reserves.log_entries WHERE log_index = %s", (index - 1,)
        ).fetchone()
        assert row is not None
        return bytes(row[0])

    def _get_leaves(self, offset: int, width: int) -> list[bytes]:
        rows = self._connection.execute(
            "SELECT leaf_hash FROM reserves.log_entries WHERE log_index >= %s AND log_index < %s ORDER BY log_index",
            (offset, offset + width),
        )
        return [bytes(row[0]) for row in rows]

    def _get_size(self) -> int:
        row = self._connection.execute("SELECT coalesce(max(log_index) + 1, 0) FROM reserves.log_entries").fetchone()
        assert row is not None
        return int(row[0])

    def leaf_hashes(self) -> list[bytes]:
        """Hashes of all leaves, oldest first (32 bytes each): what proofs are made from."""
        return self._get_leaves(0, self._get_size())


def rows(connection: psycopg.Connection) -> list[LogRow]:
    """Every entry with its seal, by index."""
    found = connection.execute(
        "SELECT e.log_index, e.entry, e.leaf_hash, s.manifest, s.signature, s.key_id, s.checkpoint"
        " FROM reserves.log_entries e LEFT JOIN close.seals s USING (log_index) ORDER BY e.log_index"
    )
    return [LogRow(int(row[0]), bytes(row[1]), bytes(row[2]), *row[3:]) for row in found]


def lock(connection: psycopg.Connection) -> int:
    """Keep others from appending until this transaction ends; returns the log's size."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('reserves.log'))")
    return int(ManifestLog(connection).get_size())
