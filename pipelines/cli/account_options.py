"""What the commands on accounts share: their options, and a transaction that a dry run takes back.

What belongs here: those. What does not: any command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import psycopg
import typer

from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.cli.output import put_json, put_table, talk

Who = Annotated[str, typer.Argument(metavar="USER", help="An account's name or number.")]
By = Annotated[str, typer.Option("--by", help="Who decides.")]
Reason = Annotated[str, typer.Option(help="Why; the history keeps it.")]
Second = Annotated[str | None, typer.Option(help="The second person, where one is needed.")]


@contextmanager
def changing(there: OpenBook, *, dry_run: bool, as_owner: bool = False) -> Iterator[psycopg.Connection]:
    """One transaction: everything is asked of the database in a dry run too, and then taken back.

    Args:
        there: the book.
        dry_run: take it back.
        as_owner: as the database's owner, for what the application may not do.
    """
    url = there.servers.admin.dsn() if as_owner else there.url
    with (
        closing(connect(url, autocommit=True)) as connection,
        typed_errors(),
        connection.transaction(force_rollback=dry_run),
    ):
        yield connection


def put_done(there: OpenBook, shown: dict[str, Any], *, as_json: bool) -> None:
    """Say what was done, or would be."""
    if shown.get("dry_run"):
        talk("dry run: nothing was changed")
    if as_json:
        put_json({"book": there.book.name, **shown})
    else:
        put_table(list(shown), [list(shown.values())])
