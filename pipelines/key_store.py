"""The keys that a book seals with: a file, the environment, or (for a simulated exchange) its seed.

What belongs here: which keys a book uses, and refusing public ones beside a real database.
What does not: what keys are for (see `engine.reserves`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psycopg

from engine.errors import ConfigError, GateError
from engine.reserves.key_file import parse_keys, published_keys_text, read_key_file, write_key_file
from engine.reserves.keys import KeySet, derive_demo_keys, generate_keys, refuse_public_keys
from engine.reserves.rotation import make_rotation, walk
from engine.reserves.signing import key_id
from engine.store import log, rotations
from pipelines.books import BookCard
from pipelines.settings import Settings

VARIABLE = "COMPLINE_KEYS"
"""Holds the key file's text itself, for homes without one."""


def key_path(settings: Settings, book: str) -> Path:
    """Where `compline keys init` puts a book's keys."""
    return settings.home / "keys" / f"{book}.keys"


def load_keys(settings: Settings, card: BookCard) -> KeySet:
    """The keys of a book.

    Raises:
        ConfigError: there are none, their file is open to others, or they are public ones beside a real database.
    """
    path = key_path(settings, card.book.name)
    if os.environ.get(VARIABLE):
        keys = parse_keys(os.environ[VARIABLE], where=VARIABLE)
    elif path.exists():
        keys = read_key_file(path)
    elif card.key_seed is not None and settings.embedded_postgres:
        return derive_demo_keys(card.key_seed)
    else:
        raise ConfigError(
            f"book {card.book.name} has no keys at {path}",
            rule="keys derived from a seed are public; beside a real database they are refused",
            next_step=f"compline keys init --book {card.book.name}",
        )
    if not settings.embedded_postgres:
        refuse_public_keys(keys)
    return keys


def load_keys_file(path: Path) -> KeySet:
    """The keys in a file (mode 0600)."""
    return read_key_file(path)


def rotate_keys(
    settings: Settings, card: BookCard, connection: psycopg.Connection, *, new_master: bool = False
) -> Path:
    """Put new signing keys in force: a signed record beside the log, then the file; the old file is kept beside it.

    The new keys lie in `<book>.keys.next` before the record is written, so that a rotation that was cut short is ended
    by running it again.

    Args:
        settings: of the home.
        card: the book.
        connection: as the application, outside a transaction.
        new_master: change the master key and its epoch too; users then need new keys of their own.

    Raises:
        ConfigError: the keys are not in a file.
        GateError: the keys in the file are not those in force.
    """
    book, exchange = card.book.name, card.book.exchange
    path = key_path(settings, book)
    if os.environ.get(VARIABLE) or not path.exists():
        raise ConfigError(
            f"the keys of book {book} are not in {path}",
            rule="keys that come from the environment, a KMS or a seed are rotated where they are kept",
            next_step=f"compline keys init --book {book}",
        )
    following = path.with_name(f"{path.name}.next")
    with connection.transaction():
        size = log.lock(connection)
        before = rotations.read(connection)
        current = read_key_file(path)
        in_force = walk(before, exchange, published_keys_text(current, exchange))[-1].text
        if not following.exists():
            write_key_file(following, _successor(current, new_master))
        new = read_key_file(following)
        if in_force != published_keys_text(new, exchange):
            if in_force != published_keys_text(current, exchange):
                raise GateError(
                    f"the keys in {path} are not those in force",
                    rule="the keys in force name their successors",
                    next_step="put the key file of the last rotation back",
                )
            made = make_rotation(current, new, exchange=exchange, log_size=size, before=before)
            rotations.append(connection, len(before), size, made)
    kept = path.with_name(f"{path.name}.{key_id(current.manifest_signer().public_key)}")
    kept.unlink(missing_ok=True)
    os.link(path, kept)
    following.replace(path)
    return path


def _successor(current: KeySet, new_master: bool) -> KeySet:
    made = generate_keys(current.reserve.key_epoch + 1)
    return made if new_master else replace(made, reserve=replace(current.reserve))


def init_keys(settings: Settings, book: str) -> Path:
    """Make new keys for a book, readable by this user alone; an existing file is never replaced.

    Raises:
        ConfigError: there are keys already.
    """
    path = key_path(settings, book)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_key_file(path, generate_keys())
    return path
