"""Options that many commands share, and how a command opens its book.

What belongs here: those. What does not: any command.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.books import OpenBook, open_book
from pipelines.cli.output import talk
from pipelines.settings import Settings, load_settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
BookName = Annotated[
    str | None, typer.Option("--book", help="Which book (database) to work on; default COMPLINE_BOOK, or demo.")
]


def settings_of(book: str | None = None) -> Settings:
    """The settings, with the book that the option names."""
    return load_settings(book=book)


def opened(book: str | None) -> OpenBook:
    """The book that a command works on."""
    settings = settings_of(book)
    return open_book(settings, settings.book, talk=talk)
