"""Postgres' binary COPY in plain Python: fields, rows, the file around them.

What belongs here: the format (Postgres manual, COPY, "Binary Format"; numeric_recv, date_recv, timestamptz_recv).
What does not: which columns a table has (see `settlement_rows`), and the same fields for arrays of millions (see
`engine.exchange.kernels.copy_fields`, which tests hold against these).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from engine.canonical import row_bytes

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = struct.pack("!i", -1)
EPOCH_DAYS = 10_957
EPOCH_US = EPOCH_DAYS * 86_400_000_000
"""From 1970 to 2000, which Postgres counts from."""
_POSITIVE, _NEGATIVE = 0x0000, 0x4000


def int4(value: int) -> bytes:
    """An integer field."""
    return struct.pack("!ii", 4, value)


def int8(value: int | None) -> bytes:
    """A bigint field."""
    return NULL if value is None else struct.pack("!iq", 8, value)


def date4(day_number: int) -> bytes:
    """A date field of days since 1970."""
    return int4(day_number - EPOCH_DAYS)


def timestamptz(us: int) -> bytes:
    """A timestamptz field of microseconds since 1970."""
    return int8(us - EPOCH_US)


def data(value: bytes) -> bytes:
    """A bytea field."""
    return struct.pack("!i", len(value)) + value


def text(value: str) -> bytes:
    """A text field.

    Raises:
        ValueError: not printable ASCII, which is all that names and references may be.
    """
    return data(row_bytes([value])[:-1])


def numeric(units: int, decimals: int) -> bytes:
    """A numeric field of a whole number of 10^-decimals, of any size that Postgres knows."""
    fraction = -(-decimals // 4)
    rest, groups = abs(units) * 10 ** (fraction * 4 - decimals), []
    while rest:
        rest, group = divmod(rest, 10_000)
        groups.append(group)
    weight = len(groups) - fraction - 1 if groups else 0
    low = next((n for n, group in enumerate(groups) if group), 0)
    kept = groups[low:][::-1]
    sign = _NEGATIVE if units < 0 else _POSITIVE
    return data(struct.pack(f"!HhHH{len(kept)}H", len(kept), weight, sign, decimals, *kept))


def row(fields: Sequence[bytes]) -> bytes:
    """A row of fields."""
    return struct.pack("!h", len(fields)) + b"".join(fields)
