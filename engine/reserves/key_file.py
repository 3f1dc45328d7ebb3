"""Key files: the secret one (mode 0600) and the published one (two lines).

What belongs here: text of both files, and the only two functions of the reserves that touch a disk.
What does not: what the keys do (see `keys`, `signing`), and where the path comes from (see `pipelines`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.reserves.checkpoint import Vkey, origin_of, parse_vkey, vkey_text
from engine.reserves.fields import FormatError, check_hex, check_integer, exact_object, load_strict_json
from engine.reserves.keys import BookKeys, KeySet, ReserveKeys, mark_public

VERSION = "compline-keys/1"
_KEYS = ("v", "purpose", "key_epoch", "master", "manifest_seed", "checkpoint_seed")
_PURPOSES = {"production": False, "demo": True}
_LONGEST = 4096
_NEXT = "make a key file with `compline keys init`"


@dataclass(frozen=True)
class PublishedKeys:
    """What outsiders verify with."""

    manifest_key: bytes
    checkpoint_key: Vkey


def keys_text(keys: KeySet) -> str:
    """The secret key file's content, also fit for an environment variable: one line of JSON."""
    content = {
        "v": VERSION,
        "purpose": "demo" if keys.public else "production",
        "key_epoch": keys.reserve.key_epoch,
        "master": keys.reserve.master.hex(),
        "manifest_seed": keys.manifest_seed.hex(),
        "checkpoint_seed": keys.checkpoint_seed.hex(),
    }
    return json.dumps(content) + "\n"


def parse_keys(text: str, *, where: str) -> KeySet:
    """Read the secret key file's content; public keys are flagged whatever the file calls itself.

    Args:
        text: the content.
        where: file or variable it is from, for the error; the content itself is never in an error.

    Raises:
        ConfigError: the content is not that of a key file.
    """
    try:
        content = exact_object(
            load_strict_json(text.encode("utf-8"), longest=_LONGEST, where="key file"), _KEYS, where="key file"
        )
        if content["v"] != VERSION or content["purpose"] not in _PURPOSES:
            raise FormatError("key file: version or purpose unknown")
        secret = {}
        for name in ("master", "manifest_seed", "checkpoint_seed"):
            secret[name] = bytes.fromhex(check_hex(content[name], 32, where=name))
        epoch = check_integer(content["key_epoch"], 0, 2**32 - 1, where="key_epoch")
    except (FormatError, TypeError, UnicodeError):
        # The cause may quote key material, so it is not chained.
        raise ConfigError(f"{where}: not a key file", rule=f"the keys of {VERSION}", next_step=_NEXT) from None
    reserve = ReserveKeys(secret["master"], epoch, public=_PURPOSES[content["purpose"]])
    return mark_public(KeySet(reserve, secret["manifest_seed"], secret["checkpoint_seed"]))


def read_key_file(path: Path) -> KeySet:
    """Read a secret key file.

    Raises:
        ConfigError: it is absent, not a plain file, readable by anyone but its owner, or not a key file.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
            status = os.fstat(handle.fileno())
            _check_status(path, status)
            data = handle.read(_LONGEST + 1)
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}", next_step=_NEXT) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"key file {path}: not a key file", rule="UTF-8 text", next_step=_NEXT) from None
    return parse_keys(text, where=f"key file {path}")


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"key file {path} is not a plain file", next_step=_NEXT)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"key file {path} has mode {mode:04o}",
            rule="a key file is readable by its owner only (0600)",
            next_step=f"chmod 600 {path}; if others could have read it, make new keys with `compline keys init`",
        )


def write_key_file(path: Path, keys: KeySet) -> None:
    """Write a secret key file with mode 0600: whole or not at all, and never over an existing one.

    Raises:
        ConfigError: the file exists already, or cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_private(draft, keys_text(keys).encode("ascii"))
            os.link(draft, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise ConfigError(
            f"key file {path} exists already",
            rule="keys are never overwritten: old proofs need them",
            next_step="use it, or move it to a safe place first",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"key file {path} cannot be written: {error.strerror}", next_step="give a writable folder"
        ) from error


def _write_private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, 0o600)
        file.write(data)
        file.flush()
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def published_keys_text(keys: BookKeys, exchange: str) -> str:
    """The published key file: the manifest key in hex, then the checkpoint key as a C2SP vkey."""
    manifest_key = keys.manifest_signer().public_key.hex()
    return f"{manifest_key}\n{vkey_text(origin_of(exchange), keys.checkpoint_signer().public_key)}\n"


def parse_published_keys(text: str) -> PublishedKeys:
    """Read the published key file.

    Raises:
        FormatError: it is not two lines of a hex key and a vkey.
    """
    lines = text.split("\n")
    if len(lines) != 3 or lines[2]:
        raise FormatError("key file: not two lines", rule="the manifest key in hex, then the checkpoint key as a vkey")
    manifest_key = bytes.fromhex(check_hex(lines[0], 32, where="key file, line 1"))
    return PublishedKeys(manifest_key, parse_vkey(lines[1]))
