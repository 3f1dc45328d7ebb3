"""The book that a database holds: its exchange, first day and policy.

What belongs here: creating and reading the one row of `close.book` and the rows of `close.policies`.
What does not: days (see `days`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date

import psycopg

from engine.close.policy import Policy
from engine.errors import ConfigError


@dataclass(frozen=True)
class Book:
    """One exchange (or tape).

    Attributes:
        name: as `--book` names it.
        exchange: as manifests name it.
        first_day: the first close date; the day before it is genesis.
    """

    name: str
    exchange: str
    first_day: date


def create(connection: psycopg.Connection, book: Book, policy: Policy) -> None:
    """Make this database the home of a book; the same book again is a no-op.

    Args:
        connection: as the database's owner.
        book: what it holds.
        policy: in force from genesis on.

    Raises:
        ConfigError: the database holds another book, or this one under another policy.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('close.book'))")
        there = read(connection)
        if there is None:
            connection.execute(
                "INSERT INTO close.book (book, exchange, first_day) VALUES (%s, %s, %s)",
                (book.name, book.exchange, book.first_day),
            )
            connection.execute(
                "INSERT INTO close.policies (effective_from, policy, policy_sha256, actor, reason)"
                " VALUES (%s::date - 1, %s, %s, 'compline up', 'the book was created')",
                (book.first_day, json.dumps(policy.as_dict()), policy.sha256),
            )
            connection.execute("SELECT close.open_day(%s::date - 1)", (book.first_day,))
            return
        if there != book:
            raise ConfigError(
                f"database {connection.info.dbname} holds book {there.name} of {there.exchange} from "
                f"{there.first_day}, not {book.name} of {book.exchange} from {book.first_day}",
                rule="one database, one book",
                next_step="use another --book, or drop that database",
            )
        if policy_on(connection, book.first_day).sha256 != policy.sha256:
            raise ConfigError(
                f"book {book.name} was created under another policy",
                rule="a policy changes from a close date on, never backwards",
                next_step="compline close run DATE and close backfill go on under its own; for a new book: --book NAME",
            )


def read(connection: psycopg.Connection) -> Book | None:
    """The book of this database, none where it was not created yet."""
    row = connection.execute("SELECT book, exchange, first_day FROM close.book").fetchone()
    return Book(str(row[0]), str(row[1]), row[2]) if row else None


def require(connection: psycopg.Connection) -> Book:
    """The book of this database.

    Raises:
        ConfigError: there is none.
    """
    book = read(connection)
    if book is None:
        raise ConfigError(
            f"database {connection.info.dbname} holds no book",
            next_step="run: compline demo, or compline exchange import-tape FILE",
        )
    return book


def cutoffs(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Every policy's first close date and its cut-off, oldest first, as text."""
    rows = connection.execute(
        "SELECT effective_from::text, policy ->> 'cutoff' FROM close.policies ORDER BY effective_from"
    )
    return [(str(since), str(cutoff)) for since, cutoff in rows]


def policy_on(connection: psycopg.Connection, day: date) -> Policy:
    """The policy in force on a close date.

    Raises:
        ConfigError: none is.
    """
    row = connection.execute("SELECT policy FROM close.policy_on(%s)", (day,)).fetchone()
    if row is None or row[0] is None:
        raise ConfigError(f"no policy is in force on {day}", next_step="run: compline up")
    return Policy.parse(row[0])
