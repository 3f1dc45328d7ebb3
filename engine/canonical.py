"""Canonical bytes and digests: JCS (RFC 8785) and the tables that the books hash is made of.

What belongs here: how records become bytes and digests, the same in Python and in SQL.
What does not: which records make up the books (see `close`), and the trees (see `reserves`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import rfc8785

Field = str | int | None


def jcs(value: Any) -> bytes:
    """RFC 8785 canonical JSON of strings, integers below 2^53, null, objects and arrays.

    Raises:
        TypeError: a float, or a type that JSON does not have.
    """
    _refuse_floats(value)
    return rfc8785.dumps(value)


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError(f"float {value!r} in canonical JSON: amounts are decimal strings")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)


def sha256_jcs(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(jcs(value)).hexdigest()


def row_bytes(fields: Iterable[Field]) -> bytes:
    """A row's fields joined by TAB and ended by LF; null is empty, integers are decimal.

    Raises:
        ValueError: a text that is not printable ASCII (it could forge a separator).
    """
    parts = []
    for field in fields:
        text = "" if field is None else str(field)
        if text and not (text.isascii() and text.isprintable()):
            raise ValueError(f"field {text!r} is not printable ASCII")
        parts.append(text)
    return "\t".join(parts).encode("ascii") + b"\n"


def row_hash(fields: Iterable[Field]) -> bytes:
    """SHA-256 (32 bytes) of a row."""
    return hashlib.sha256(row_bytes(fields)).digest()


def table_digest(row_hashes: Iterable[bytes]) -> str:
    """Hex SHA-256 over the rows' hashes in ascending order."""
    digest = hashlib.sha256()
    for one in sorted(row_hashes):
        digest.update(one)
    return digest.hexdigest()
