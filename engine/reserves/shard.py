"""Sealed proof records and the shards they are published in, so that nobody learns who checks.

What belongs here: a record's bytes, its opening, and the join and search of a shard. Source: RESERVES.md, Files.
What does not: what the record says (see `proof`), and where shards are stored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from engine.reserves.fields import FormatError, check_account, check_integer, u32, u64
from engine.reserves.keys import hkdf, hmac_sha256, keyed_hmac

SIZE_STEP = 4096
FILE_SALT = hashlib.sha256(b"por/v1/file").digest()
FILE_LABEL = b"por/v1/file\0"
LOCATOR_LABEL = b"por/v1/locator"
_HEAD = 32
_TAG = 32


class ShardError(FormatError):
    """A record or shard that can't be sealed, found or opened."""


def shard_id(account: str, digits: int = 3) -> str:
    """The first hex digits of SHA-256(account), 0 to 4 of them by policy."""
    check_integer(digits, 0, 4, where="shard digits")
    return hashlib.sha256(check_account(account, where="shard").encode("ascii")).hexdigest()[:digits]


def record_size(longest: int) -> int:
    """The day's record size: the smallest multiple of 4096 that holds the longest plaintext and its length."""
    return -(-(longest + 4) // SIZE_STEP) * SIZE_STEP


def _file_keys(user_key: bytes, ctx: bytes) -> tuple[bytes, bytes]:
    both = hkdf(user_key, FILE_SALT, ctx, 64)
    return both[:32], both[32:]


def _stream(enc: bytes, nonce: bytes, length: int) -> int:
    block = keyed_hmac(enc)
    stream = b"".join(block(nonce + u64(i)) for i in range(-(-length // 32)))
    return int.from_bytes(stream[:length], "big")


def seal_record(user_key: bytes, ctx: bytes, plaintext: bytes, size: int) -> bytes:
    """One user's sealed record of a day.

    Args:
        user_key: K_user, 32 bytes.
        ctx: the day's context, 32 bytes.
        plaintext: the proof record.
        size: the day's record size, a multiple of 4096.

    Raises:
        ShardError: the plaintext does not fit, or the size is no multiple of 4096.
    """
    if size <= 0 or size % SIZE_STEP or len(plaintext) + 4 > size:
        raise ShardError(
            f"a record of {len(plaintext)} bytes in {size}", rule="the day's size is a multiple of 4096 that holds all"
        )
    enc, mac = _file_keys(user_key, ctx)
    plain = (u32(len(plaintext)) + plaintext).ljust(size, b"\0")
    nonce = hmac_sha256(mac, plain)[:16]
    cipher = (int.from_bytes(plain, "big") ^ _stream(enc, nonce, size)).to_bytes(size, "big")
    locator = hmac_sha256(mac, LOCATOR_LABEL)[:16]
    return locator + nonce + cipher + hmac_sha256(mac, FILE_LABEL + locator + nonce + cipher)


def open_record(user_key: bytes, ctx: bytes, record: bytes) -> bytes:
    """The plaintext of a sealed record.

    Raises:
        ShardError: another user's or day's record, or one that was changed.
    """
    size = len(record) - _HEAD - _TAG
    if size <= 0 or size % SIZE_STEP:
        raise ShardError(f"a record of {len(record)} bytes", rule="64 bytes more than a multiple of 4096")
    enc, mac = _file_keys(user_key, ctx)
    body, tag = record[:-_TAG], record[-_TAG:]
    if not hmac.compare_digest(hmac_sha256(mac, FILE_LABEL + body), tag):
        raise ShardError("the record is not this user's of this day, or was changed", rule="its tag holds")
    nonce, cipher = body[16:_HEAD], body[_HEAD:]
    plain = (int.from_bytes(cipher, "big") ^ _stream(enc, nonce, size)).to_bytes(size, "big")
    length = int.from_bytes(plain[:4], "big")
    if length + 4 > size or any(plain[4 + length :]) or hmac_sha256(mac, plain)[:16] != nonce:
        raise ShardError("the record's plaintext is malformed", rule="length, record, zeros; the nonce is theirs")
    return plain[4 : 4 + length]


def join_shard(records: Iterable[bytes]) -> bytes:
    """A shard file: its records sorted by locator.

    Raises:
        ShardError: records of different sizes, or two with one locator.
    """
    ordered = sorted(records)
    if len({len(one) for one in ordered}) > 1 or len({one[:16] for one in ordered}) != len(ordered):
        raise ShardError(
            "records of one shard differ in size or share a locator", rule="one size a day, one record a user"
        )
    return b"".join(ordered)


def find_record(shard: bytes, size: int, user_key: bytes, ctx: bytes) -> bytes | None:
    """The user's sealed record in a shard, or None.

    Args:
        shard: the whole file.
        size: the day's record size.
        user_key: K_user, 32 bytes.
        ctx: the day's context, 32 bytes.

    Raises:
        ShardError: the file is not made of whole records.
    """
    step = size + _HEAD + _TAG
    if size <= 0 or size % SIZE_STEP or len(shard) % step:
        raise ShardError(f"a shard of {len(shard)} bytes for records of {size}", rule="a shard is whole records")
    locator = hmac_sha256(_file_keys(user_key, ctx)[1], LOCATOR_LABEL)[:16]
    for start in range(0, len(shard), step):
        if shard[start : start + 16] == locator:
            return shard[start : start + step]
    return None
