"""Key rotations: signed records that lead from the first published keys to those in force.

What belongs here: a record's bytes and signatures, and walking the chain from keys that somebody trusts.
What does not: where records are stored (see `engine.store.rotations`), and the secret key files (see `key_file`).

A record names both published key files, old and new, the size that the log had, and the record before it. All four keys
sign it: the old ones say who follows them, the new ones that somebody holds them. Entry i of the log is signed by the
manifest key that was in force when the log had i entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.canonical import jcs
from engine.errors import GateError
from engine.reserves.fields import (
    MAX_SAFE_INTEGER,
    check_exchange,
    check_hex,
    check_integer,
    exact_object,
    load_strict_json,
)
from engine.reserves.key_file import PublishedKeys, parse_published_keys, published_keys_text
from engine.reserves.keys import BookKeys
from engine.reserves.signing import verify_ed25519

PREFIX = b"por/1/rotation\0"
_KEYS = ("v", "exchange", "rotation", "log_size", "old_keys", "new_keys", "key_epoch", "previous")
_SIGNERS = ("old_manifest", "old_checkpoint", "new_manifest", "new_checkpoint")


class RotationError(GateError):
    """A rotation record, or a chain of them, does not hold."""


@dataclass(frozen=True)
class Rotation:
    """One stored record: its canonical text and the four signatures by name, hex."""

    record: str
    signatures: dict[str, str]

    @property
    def sha256(self) -> str:
        """What the next record names."""
        return hashlib.sha256(self.record.encode()).hexdigest()


@dataclass(frozen=True)
class KeysInForce:
    """Published keys, and the log sizes at which they sign: from `since` on."""

    since: int
    text: str

    @property
    def keys(self) -> PublishedKeys:
        """The keys themselves."""
        return parse_published_keys(self.text)


def fingerprint_of(text: str) -> str:
    """The name of a published key file: SHA-256 of its text, hex; what outsiders remember the first one by."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_rotation(
    old: BookKeys, new: BookKeys, *, exchange: str, log_size: int, before: Sequence[Rotation] = ()
) -> Rotation:
    """The record that puts new keys in force.

    Args:
        old: the keys in force.
        new: their successors, both signing keys other than the old ones.
        exchange: whose log.
        log_size: entries that the log has.
        before: every earlier record, oldest first.

    Raises:
        RotationError: a key stays, or the chain does not hold.
    """
    value = {
        "v": "por-rotation/1",
        "exchange": exchange,
        "rotation": len(before),
        "log_size": log_size,
        "old_keys": published_keys_text(old, exchange),
        "new_keys": published_keys_text(new, exchange),
        "key_epoch": new.reserve.key_epoch,
        "previous": before[-1].sha256 if before else None,
    }
    record = jcs(value)
    message = PREFIX + record
    signatures = {
        "old_manifest": old.manifest_signer().sign_manifest_message(message),
        "old_checkpoint": old.checkpoint_signer().sign_note(message),
        "new_manifest": new.manifest_signer().sign_manifest_message(message),
        "new_checkpoint": new.checkpoint_signer().sign_note(message),
    }
    made = Rotation(record.decode(), {name: one.hex() for name, one in signatures.items()})
    first = walk([*before, made], exchange)[0]
    if log_size < first.since:
        raise RotationError("a rotation before the log began")
    return made


def walk(rotations: Sequence[Rotation], exchange: str, current: str | None = None) -> list[KeysInForce]:
    """Check a chain of rotations and return every set of keys with the log size from which it signs.

    Args:
        rotations: oldest first.
        exchange: whose log.
        current: the published key file where there is no rotation.

    Raises:
        RotationError: a record is malformed, out of its place, or not signed by all four keys.
    """
    found: list[KeysInForce] = []
    for number, rotation in enumerate(rotations):
        value = _read(rotation, number)
        before = rotations[number - 1].sha256 if number else None
        old, new = value["old_keys"], value["new_keys"]
        if value["exchange"] != exchange or value["rotation"] != number or value["previous"] != before:
            raise RotationError(f"rotation {number} is of another log, number or predecessor")
        if found and (old != found[-1].text or value["log_size"] < found[-1].since):
            raise RotationError(f"rotation {number} does not follow from the keys before it")
        was, now = parse_published_keys(old), parse_published_keys(new)
        if was.manifest_key == now.manifest_key or was.checkpoint_key == now.checkpoint_key:
            raise RotationError(f"rotation {number} keeps a key", rule="both signing keys change")
        signers = (was.manifest_key, was.checkpoint_key.public_key, now.manifest_key, now.checkpoint_key.public_key)
        for name, key in zip(_SIGNERS, signers, strict=True):
            signature = bytes.fromhex(check_hex(rotation.signatures[name], 64, where=f"rotation {number}: {name}"))
            verify_ed25519(key, signature, PREFIX + rotation.record.encode(), where=f"rotation {number}, {name}")
        found = [*(found or [KeysInForce(0, old)]), KeysInForce(value["log_size"], new)]
    return found or ([KeysInForce(0, current)] if current is not None else [])


def _read(rotation: Rotation, number: int) -> dict[str, Any]:
    where = f"rotation {number}"
    value = exact_object(load_strict_json(rotation.record.encode(), longest=65536, where=where), _KEYS, where=where)
    if value["v"] != "por-rotation/1" or jcs(value) != rotation.record.encode():
        raise RotationError(f"{where} is not its own canonical text")
    check_exchange(value["exchange"], where=where)
    check_integer(value["rotation"], 0, MAX_SAFE_INTEGER, where=where)
    check_integer(value["log_size"], 0, MAX_SAFE_INTEGER, where=where)
    check_integer(value["key_epoch"], 0, 2**32 - 1, where=where)
    exact_object(rotation.signatures, _SIGNERS, where=f"{where}: signatures")
    return value


def in_force(found: Sequence[KeysInForce], log_size: int) -> KeysInForce:
    """The keys that sign when the log has so many entries."""
    return [one for one in found if one.since <= log_size][-1]
