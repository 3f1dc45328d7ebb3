"""Books on this machine: creating one, opening one, and where its files lie.

What belongs here: the join of settings, servers, schema and the book's own row; `<home>/books/<name>/`.
What does not: servers (see `local`), and what a book holds (see `engine.store`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from engine.clock import parse_close_date
from engine.close.policy import Policy
from engine.errors import ConfigError, UncheckedError
from engine.store import books, migrate
from engine.store.books import Book
from engine.store.connect import connect, typed_errors
from pipelines.local import nats
from pipelines.local.servers import ensure_servers
from pipelines.local.urls import Servers, resolve_servers
from pipelines.settings import Settings, check_book

Talk = Callable[[str], None]


@dataclass(frozen=True)
class BookFiles:
    """Where the files of a book lie.

    Attributes:
        home: the home of everything written at run time.
        name: of the book.
    """

    home: Path
    name: str

    @property
    def folder(self) -> Path:
        """The book's own folder."""
        return self.home / "books" / self.name

    @property
    def journal_dir(self) -> Path:
        """The matching engine's journal and snapshots."""
        return self.folder / "exchange"

    @property
    def card(self) -> Path:
        """What the code location needs to know without a database."""
        return self.folder / "book.json"

    @property
    def evidence_dir(self) -> Path:
        """Evidence of all books; one folder a book below it."""
        return self.home / "evidence"


@dataclass(frozen=True)
class BookCard:
    """A book as its files know it.

    Attributes:
        book: name, exchange and first day.
        policy: that the book was created under.
        key_seed: seed that a simulated exchange derives its keys from; None for a real one.
    """

    book: Book
    policy: Policy
    key_seed: int | None


@dataclass(frozen=True)
class OpenBook:
    """A book whose database is there and of this version."""

    settings: Settings
    servers: Servers
    card: BookCard
    files: BookFiles

    @property
    def book(self) -> Book:
        """Name, exchange and first day."""
        return self.card.book

    @property
    def url(self) -> str:
        """The book's database, as the application; secret."""
        return self.servers.app.dsn()

    def policy_on(self, day: date) -> Policy:
        """The policy in force on a date, with the settings' step limit where that is lower."""
        with closing(connect(self.url)) as connection, typed_errors():
            return books.policy_on(connection, day)


def write_card(files: BookFiles, card: BookCard) -> None:
    """Write a book's card, whole or not at all."""
    files.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {
            "v": "book/1",
            "book": card.book.name,
            "exchange": card.book.exchange,
            "first_day": str(card.book.first_day),
            "key_seed": card.key_seed,
            "policy": card.policy.as_dict(),
        },
        indent=2,
        sort_keys=True,
    )
    draft = files.card.with_name(f".book.json.{os.getpid()}")
    try:
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(files.card)
    except OSError as error:
        raise UncheckedError(
            f"{files.card} cannot be written: {error.strerror}", next_step="make room or rights there"
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def read_card(files: BookFiles) -> BookCard | None:
    """A book's card; none where the book was not created on this machine.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        value = json.loads(files.card.read_text(encoding="utf-8"))
        book = Book(value["book"], value["exchange"], parse_close_date(value["first_day"]))
        return BookCard(book, Policy.parse(value["policy"]), value["key_seed"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{files.card} cannot be read: {error}", next_step="remove it and run the command that made the book"
        ) from None


def known_books(home: Path) -> list[str]:
    """Names of the books that have a card below a home."""
    return sorted(path.parent.name for path in (home / "books").glob("*/book.json"))


def create_book(settings: Settings, card: BookCard, *, talk: Talk) -> OpenBook:
    """Have servers, database, schema and the book's row; the same book again changes nothing.

    Args:
        settings: from `load_settings`.
        card: what the book is.
        talk: called with a line before each thing that takes time.

    Raises:
        ConfigError: the database holds another book.
        UncheckedError: a server does not answer.
    """
    check_book(card.book.name)
    servers = ensure_servers(settings, talk=talk, book=card.book.name)
    files = BookFiles(settings.home, card.book.name)
    with typed_errors():
        migrate.upgrade(servers.admin.dsn())
        with closing(connect(servers.admin.dsn(), autocommit=True)) as connection:
            books.create(connection, card.book, card.policy)
    if read_card(files) != card:
        write_card(files, card)
    files.journal_dir.mkdir(parents=True, exist_ok=True)
    return OpenBook(settings, servers, card, files)


def open_away(settings: Settings, name: str) -> OpenBook:
    """A book as this machine knows it, while its database is away; nothing of it is checked.

    Raises:
        ConfigError: there is no such book here.
        UncheckedError: the embedded server of this home was never started.
    """
    files = BookFiles(settings.home, check_book(name))
    return OpenBook(settings, resolve_servers(settings, name), require_card(files), files)


def require_card(files: BookFiles) -> BookCard:
    """A book's card.

    Raises:
        ConfigError: the book was not created on this machine, or the file is damaged.
    """
    card = read_card(files)
    if card is None:
        there = ", ".join(known_books(files.home)) or "none"
        raise ConfigError(
            f"there is no book {files.name} (known here: {there})",
            next_step="compline demo; or, for one of your own, compline exchange open FILE --book NAME",
        )
    return card


def open_book(settings: Settings, name: str, *, talk: Talk, start: bool = True) -> OpenBook:
    """Open a book that is there.

    Args:
        settings: from `load_settings`.
        name: of the book.
        talk: called with a line before each thing that takes time.
        start: start the embedded servers where they are down.

    Raises:
        ConfigError: there is no such book, or its schema is of another version.
        UncheckedError: the database does not answer.
    """
    check_book(name)
    files = BookFiles(settings.home, name)
    card = require_card(files)
    if start and settings.embedded_postgres:
        servers = ensure_servers(settings, talk=talk, book=name)
    else:
        # A real server's roles and databases are made by `up` and the commands that make a book, not by every look.
        if start and settings.nats_url is None:
            nats.ensure_nats(settings.home, talk=talk, port=settings.nats_port)
        servers = resolve_servers(settings, name)
    with closing(connect(servers.app.dsn())) as connection, typed_errors():
        migrate.require_current(connection)
        stored = books.require(connection)
    if stored != card.book:
        raise ConfigError(
            f"{files.card} says {card.book}, the database {stored}",
            next_step="use the home that this database belongs to",
        )
    return OpenBook(settings, servers, card, files)
