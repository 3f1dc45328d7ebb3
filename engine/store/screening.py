"""Screening as the database has it: stored lists, who is to be compared, what was found and what came of it.

What belongs here: those queries and calls. What does not: reading and comparing (see `engine.screening`).
Names leave this file only to be compared; what is written down of a hit are numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import psycopg

from engine.errors import InputError

_SOURCE = "list"
_CHUNK = 200_000


@dataclass(frozen=True)
class Reading:
    """A list as it was captured.

    Attributes:
        at: when.
        sha256: hex hash of its bytes.
    """

    reading_id: int
    at: datetime
    sha256: str


@dataclass(frozen=True)
class LastRun:
    """The last run after which everybody had been compared with a list.

    Attributes:
        reading_id: the list's version.
        below: whoever was written by a transaction below this one was compared (`xid8` as text).
    """

    reading_id: int
    sha256: str
    format: str
    threshold: int
    matcher: str
    below: str


@dataclass(frozen=True, slots=True)
class Found:
    """A user's name or address that is on a list; `subject_no` is its row."""

    user_id: int
    entry_id: str
    entry_sha256: str
    matched: str
    subject_no: int
    score: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit that is there.

    Attributes:
        came_of_it: `hold N`, or the state that the user was moved to.
    """

    user_id: int
    entry_id: str
    came_of_it: str


Names = tuple[list[int], list[int], list[str]]
"""Numbers of identities, users and full names: three columns of one length."""


def users(connection: psycopg.Connection) -> int:
    """How many users there are."""
    row = connection.execute("SELECT count(*) FROM accounts.users").fetchone()
    assert row is not None
    return int(row[0])


def screen(connection: psycopg.Connection, day: date, epoch: int, version: str, entries: Sequence[str]) -> int:
    """Open a sanctions hold for every user whose account's name is in a file; returns how many hits are new."""
    row = connection.execute("SELECT accounts.screen(%s, %s, %s, %s)", (day, epoch, version, list(entries))).fetchone()
    assert row is not None
    return int(row[0])


def store_list(connection: psycopg.Connection, name: str, raw: bytes, at: datetime) -> Reading:
    """Store a list's bytes as a reading, as the collector."""
    row = connection.execute(
        "INSERT INTO capture.readings (source, subject, at, raw) VALUES (%s, %s, %s, %s)"
        " RETURNING reading_id, at, sha256",
        (_SOURCE, name, at, raw),
    ).fetchone()
    assert row is not None
    return Reading(*row)


def reading_near(connection: psycopg.Connection, name: str, at: datetime, max_age_s: int) -> Reading | None:
    """The stored reading of a list that is nearest an instant; none where none is within the age."""
    row = connection.execute(
        "SELECT reading_id, at, sha256 FROM capture.readings WHERE source = %(s)s AND subject = %(n)s"
        " AND at BETWEEN %(t)s - make_interval(secs => %(a)s) AND %(t)s + make_interval(secs => %(a)s)"
        " ORDER BY abs(extract(epoch FROM at - %(t)s)), at LIMIT 1",
        {"s": _SOURCE, "n": name, "t": at, "a": max_age_s},
    ).fetchone()
    return Reading(*row) if row else None


def raw_of(connection: psycopg.Connection, reading_id: int) -> bytes:
    """The bytes of a reading."""
    row = connection.execute("SELECT raw FROM capture.readings WHERE reading_id = %s", (reading_id,)).fetchone()
    assert row is not None
    return bytes(row[0])


def last_run(connection: psycopg.Connection, name: str) -> LastRun | None:
    """The last whole run of a list."""
    row = connection.execute(
        "SELECT reading_id, list_sha256, format, threshold, matcher, screened_below::text FROM accounts.screening_runs"
        " WHERE list = %s ORDER BY run_id DESC LIMIT 1",
        (name,),
    ).fetchone()
    return LastRun(*row) if row else None


def horizon(connection: psycopg.Connection) -> str:
    """The transaction below which all have ended: what they wrote, a later look in this transaction sees."""
    row = connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return str(row[0])


def lock_list(connection: psycopg.Connection, name: str) -> None:
    """One whole run of a list at a time, until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('accounts.screening'), hashtext(%s))", (name,))


def subjects(connection: psycopg.Connection) -> str:
    """What there is to compare, as a short text that changes with it."""
    row = connection.execute("SELECT accounts.screening_subjects()").fetchone()
    assert row is not None
    return str(row[0])


def names(connection: psycopg.Connection, since: str | None, user_id: int | None) -> Iterator[Names]:
    """Names to compare, in chunks: all, those written from a transaction on, or one user's."""
    with connection.cursor(name="names_to_screen", withhold=False) as cursor:
        cursor.execute("SELECT * FROM accounts.names_to_screen(%s::xid8, %s)", (since, user_id))
        while rows := cursor.fetchmany(_CHUNK):
            numbers, who, texts = zip(*rows, strict=True)
            yield list(numbers), list(who), list(texts)


def addresses_on(
    connection: psycopg.Connection, listed: Sequence[str], since: str | None, user_id: int | None
) -> list[tuple[int, int, int]]:
    """Number of the address, user and place in `listed` (from 0) of every user's address that is listed."""
    rows = connection.execute(
        "SELECT address_no, user_id, nth - 1 FROM accounts.addresses_on(%s, %s::xid8, %s)",
        (list(listed), since, user_id),
    ).fetchall()
    return [(int(a), int(b), int(c)) for a, b, c in rows]


def take_hits(
    connection: psycopg.Connection,
    close_date: date | None,
    name: str,
    version: str,
    sha256: str,
    found: Sequence[Found],
) -> list[Hit]:
    """Act on what was found and is neither known nor cleared; returns the new hits."""
    if not found:
        return []
    rows = connection.execute(
        "SELECT user_id, entry, came_of_it FROM accounts.take_hits(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            close_date,
            name,
            version,
            sha256,
            [f.user_id for f in found],
            [f.entry_id for f in found],
            [f.entry_sha256 for f in found],
            [f.matched for f in found],
            [f.subject_no for f in found],
            [f.score for f in found],
        ),
    ).fetchall()
    return sorted((Hit(*row) for row in rows), key=lambda hit: (hit.user_id, hit.entry_id))


def write_run(
    connection: psycopg.Connection,
    close_date: date | None,
    name: str,
    version: str,
    run: LastRun,
    *,
    entries: int,
    compared: int,
    new_hits: int,
) -> None:
    """Write down that everybody has been compared with this version."""
    connection.execute(
        "SELECT accounts.write_screening_run(%s, %s, %s, %s, %s, %s, %s, %s, %s::xid8, %s, %s, %s)",
        (
            close_date,
            name,
            run.format,
            version,
            run.sha256,
            run.reading_id,
            run.threshold,
            run.matcher,
            run.below,
            entries,
            compared,
            new_hits,
        ),
    )


def record_identity(connection: psycopg.Connection, user_id: int, full_name: str, who: str) -> int:
    """Record a name of a user; the same again has no effect. Returns its number."""
    row = connection.execute("SELECT accounts.record_identity(%s, %s, %s)", (user_id, full_name, who)).fetchone()
    assert row is not None
    return int(row[0])


def record_address(connection: psycopg.Connection, user_id: int, chain: str, address: str, who: str) -> int:
    """Record an address that a user pays from or to; the same again has no effect. Returns its number."""
    row = connection.execute(
        "SELECT accounts.record_address(%s, %s, %s, %s)", (user_id, chain, address, who)
    ).fetchone()
    assert row is not None
    return int(row[0])


def record_person(
    connection: psycopg.Connection, user_id: int, names: Sequence[str], addresses: Sequence[tuple[str, str]], who: str
) -> None:
    """Record names, and chains with addresses, of a user.

    Raises:
        InputError: one is none; its text is not in the message.
    """
    try:
        for name in names:
            record_identity(connection, user_id, name, who)
        for chain, address in addresses:
            record_address(connection, user_id, chain, address, who)
    except (psycopg.errors.CheckViolation, psycopg.DataError) as error:
        raise InputError(
            f"a name or address of user {user_id} breaks {error.diag.constraint_name or 'the encoding'}",
            rule="nothing of this was recorded",
            next_step="a name has letters or digits, an address printable ASCII",
        ) from None


def clear(
    connection: psycopg.Connection, user_id: int, name: str, entry_id: str, *, who: str, second: str, reason: str
) -> str:
    """Two people found a hit to be somebody else; returns what became of its hold."""
    row = connection.execute(
        "SELECT accounts.clear_hit(%s, %s, %s, %s, %s, %s)", (user_id, name, entry_id, who, second, reason)
    ).fetchone()
    assert row is not None
    return str(row[0])


def hits_of(connection: psycopg.Connection, close_date: date) -> list[dict[str, str]]:
    """The hits that a close made: numbers and ids, no names."""
    rows = connection.execute(
        "SELECT user_id::text, list, list_version, entry, matched, coalesce(score, 100)::text,"
        " CASE WHEN hold_id IS NULL THEN 'state' ELSE 'hold' END FROM accounts.screening_hits"
        " WHERE close_date = %s AND entry_sha256 IS NOT NULL ORDER BY user_id, list, entry",
        (close_date,),
    ).fetchall()
    keys = ("user", "list", "version", "entry", "matched", "score", "acted_by")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def find_hits(connection: psycopg.Connection, user_id: int | None, *, open_only: bool) -> list[dict[str, object]]:
    """Hits for a person to look at, the last one first."""
    rows = connection.execute(
        "SELECT h.user_id, u.account, u.state, h.list, h.list_version, h.entry, h.matched, h.score, h.hold_id,"
        " h.transition_version, h.at, c.cleared_by, c.second FROM accounts.screening_hits h"
        " JOIN accounts.users u USING (user_id) LEFT JOIN accounts.screening_clearances c"
        " ON c.user_id = h.user_id AND c.list = h.list AND c.entry_sha256 = h.entry_sha256"
        " WHERE (%(u)s::bigint IS NULL OR h.user_id = %(u)s) AND NOT (%(o)s AND c.user_id IS NOT NULL)"
        " ORDER BY h.at DESC, h.user_id, h.entry LIMIT 1000",
        {"u": user_id, "o": open_only},
    )
    keys = [str(column.name) for column in rows.description or ()]
    return [dict(zip(keys, row, strict=True)) for row in rows.fetchall()]


def without_name(connection: psycopg.Connection) -> int:
    """How many users have no name on record: nobody can be compared by a name that is not there."""
    row = connection.execute("SELECT accounts.users_without_name()").fetchone()
    assert row is not None
    return int(row[0])
