"""The hash chain of accounts' history, checked from its rows alone.

What belongs here: what a row's hash is over, and the walk that finds the first row that does not hold.
What does not: where rows come from (see `engine.store.account_history`).

The hash of a row is SHA-256 over `account-transition/1`, the hash before it (hex; nothing for the first), user,
version, from, to, authority, actor, second approver, reason, `at` and `recorded_at` (UTC, microseconds), TAB between
them, LF at the end, in UTF-8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import GateError

TAG = b"account-transition/1\t"
HASHED = 11
"""How many fields of a row the hash is over; its own hash and the head that the account claims follow."""

Rule = tuple[str, str, str]
"""From, to, authority."""


@dataclass(frozen=True)
class Verified:
    """What a walk over the whole history found to hold."""

    rows: int
    users: int
    digest: str
    """Over the hash of every account's newest row, in the order of users: it changes with any row."""


class HistoryBrokenError(GateError):
    """A row of the history of an account does not hold, or its account claims another head (exit 1)."""

    def __init__(self, user: str, version: str, why: str) -> None:
        self.user = user
        self.version = version
        self.why = why
        super().__init__(
            f"history of user {user}, row {version}: {why}",
            rule="rows are added by the transitions that they record, and never changed",
            next_step="compare with a backup and with the events that were told: no role of the product can do this",
        )


def row_hash(fields: Iterable[bytes]) -> bytes:
    """Hex SHA-256 of a row's fields, from the hash before it to `recorded_at`."""
    return hashlib.sha256(TAG + b"\t".join(fields) + b"\n").hexdigest().encode()


def verify(lines: Iterable[bytes], rules: Mapping[Rule, bool]) -> Verified:
    """Walk rows in the order of user and version.

    Args:
        lines: fields with TABs between them, as COPY writes text: those that are hashed, the row's hash, and the
            version and state that the account claims.
        rules: allowed transitions, and whether each needs a second person.

    Raises:
        HistoryBrokenError: at the first row that does not hold.
    """
    known = {tuple(part.encode() for part in rule): second for rule, second in rules.items()}
    digest = hashlib.sha256()
    rows = users = 0
    user = head_version = head_state = b""
    version, state, last, recorded = 0, b"none", b"", b""
    sha256 = hashlib.sha256
    for raw in lines:
        line = raw.rstrip(b"\n")
        fields = line.split(b"\t") if b"\\" not in line else [_plain(field) for field in line.split(b"\t")]
        prev, who, number, from_state, to_state, authority, actor, second, _, at, now, stored, claims, is_in = fields
        if who != user:
            _check_head(user, version, state, head_version, head_state)
            digest.update(last)
            user, head_version, head_state = who, claims, is_in
            version, state, last, recorded = 0, b"none", b"", b""
            users += 1
        version += 1
        if number != b"%d" % version:
            _broken(user, number, f"row {version} is missing")
        if prev != last:
            _broken(user, number, "it does not name the hash of the row before it")
        if sha256(TAG + b"\t".join(fields[:HASHED]) + b"\n").hexdigest().encode() != stored:
            _broken(user, number, "its hash is not that of what it says")
        if from_state != state:
            _broken(user, number, f"it comes from {from_state.decode()}, the row before it led to {state.decode()}")
        needs_second = False if version == 1 else known.get((from_state, to_state, authority))
        if needs_second is None:
            _broken(user, number, "no row of the matrix allows it")
        if needs_second and _person(second) in (b"", _person(actor)):
            _broken(user, number, "it needs two people")
        if at > now or now < recorded:
            _broken(user, number, "its time is before that of the row before it, or ahead of its own recording")
        state, last, recorded = to_state, stored, now
        rows += 1
    _check_head(user, version, state, head_version, head_state)
    digest.update(last)
    return Verified(rows, users, digest.hexdigest())


def _check_head(user: bytes, version: int, state: bytes, head_version: bytes, head_state: bytes) -> None:
    if user and (b"%d" % version != head_version or state != head_state):
        claimed = f"{head_state.decode()} at version {head_version.decode()}" if head_version else "nothing"
        raise HistoryBrokenError(
            user.decode(), str(version), f"it ends in {state.decode()}, the account claims {claimed}"
        )


def _broken(user: bytes, version: bytes, why: str) -> None:
    raise HistoryBrokenError(user.decode(), version.decode(), why)


def _person(name: bytes) -> bytes:
    return re.sub(rb"\s", b"", name).lower()


_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _plain(field: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), field)
