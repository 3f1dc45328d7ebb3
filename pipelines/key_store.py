"""The keys that a book seals with: a file, the environment, or (for a simulated exchange) its seed.

What belongs here: which keys a book uses, and refusing public ones beside a real database.
What does not: what keys are for (see `engine.reserves`).
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import ConfigError
from engine.reserves.key_file import parse_keys, read_key_file, write_key_file
from engine.reserves.keys import KeySet, derive_demo_keys, generate_keys, refuse_public_keys
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


def init_keys(settings: Settings, book: str) -> Path:
    """Make new keys for a book, readable by this user alone; an existing file is never replaced.

    Raises:
        ConfigError: there are keys already.
    """
    path = key_path(settings, book)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_key_file(path, generate_keys())
    return path
