"""The header of a day's commitment, and the context that every leaf of the day is bound to.

What belongs here: the header's fields, their rules, and `ctx`.
What does not: the rest of the manifest (see `manifest`).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from engine.canonical import jcs
from engine.reserves.fields import (
    MAX_SAFE_INTEGER,
    FormatError,
    check_date,
    check_exchange,
    check_hex,
    check_instant,
    check_integer,
    exact_object,
)

VERSION = "por/1"
HEADER_KEYS = (
    "v",
    "exchange",
    "seq",
    "close_date",
    "version",
    "snapshot_at",
    "barrier_seq",
    "books_sha256",
    "policy_sha256",
)


@dataclass(frozen=True)
class Header:
    """What a day's trees are about, known before they are built.

    Args:
        exchange: the exchange's name.
        seq: index of this manifest in the log.
        close_date: YYYY-MM-DD.
        version: 1, or more for a re-close.
        snapshot_at: the cut-off instant, UTC, ending in Z.
        barrier_seq: the engine sequence of the cut-off command.
        books_sha256: the books hash, hex.
        policy_sha256: digest of the policy in force, hex.
    """

    exchange: str
    seq: int
    close_date: str
    version: int
    snapshot_at: str
    barrier_seq: int
    books_sha256: str
    policy_sha256: str

    def __post_init__(self) -> None:
        check_exchange(self.exchange, where="header")
        check_integer(self.seq, 0, MAX_SAFE_INTEGER, where="header: seq")
        check_date(self.close_date, where="header: close_date")
        check_integer(self.version, 1, MAX_SAFE_INTEGER, where="header: version")
        check_instant(self.snapshot_at, where="header: snapshot_at")
        check_integer(self.barrier_seq, 0, MAX_SAFE_INTEGER, where="header: barrier_seq")
        check_hex(self.books_sha256, 32, where="header: books_sha256")
        check_hex(self.policy_sha256, 32, where="header: policy_sha256")

    def as_dict(self) -> dict[str, Any]:
        """The header's object."""
        return {"v": VERSION, **asdict(self)}

    @property
    def ctx(self) -> bytes:
        """SHA-256 of the header's JCS: binds every key and leaf to this day, version and books."""
        return hashlib.sha256(jcs(self.as_dict())).digest()

    @classmethod
    def parse(cls, value: object, *, where: str) -> Header:
        """Read a header strictly.

        Raises:
            FormatError: a key is unknown or missing, a value breaks its rule, or the version is not por/1.
        """
        fields = dict(exact_object(value, HEADER_KEYS, where=where))
        if fields.pop("v") != VERSION:
            raise FormatError(f"{where}: another format version", rule=f"v is {VERSION!r}")
        return cls(**fields)
