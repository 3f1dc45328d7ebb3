"""Key rotations in the database.

What belongs here: reading and appending their rows.
What does not: what a record says (see `engine.reserves.rotation`).
"""

from __future__ import annotations

import json

import psycopg

from engine.reserves.rotation import Rotation


def read(connection: psycopg.Connection) -> list[Rotation]:
    """Every rotation, oldest first."""
    rows = connection.execute("SELECT record, signatures FROM reserves.key_rotations ORDER BY rotation_no")
    return [Rotation(str(record), dict(signatures)) for record, signatures in rows]


def append(connection: psycopg.Connection, number: int, log_size: int, rotation: Rotation) -> None:
    """Append the next rotation, in the caller's transaction."""
    connection.execute(
        "INSERT INTO reserves.key_rotations (rotation_no, log_size, record, signatures) VALUES (%s, %s, %s, %s)",
        (number, log_size, rotation.record, json.dumps(rotation.signatures)),
    )
