"""Screening users against a stored list: everybody when something is new, and one user at onboarding.

What belongs here: which pairs of users and entries have not been compared yet, and joining the reading of a list, the
comparing and what follows. What does not: the step of a close (see `screening_hits`).

After a whole run everybody has been compared with every entry of that version. The next one compares whoever was
written since with all entries, and everybody with the entries that are new or changed: its cost is that of the change.
Another threshold or matcher compares everybody anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from engine.close.policy import Policy
from engine.errors import InputError, UncheckedError
from engine.screening.lists import ListEntry, ListSpec, ScreeningList, read_list
from engine.screening.matcher import VERSION, NameIndex
from engine.screening.names import normal
from engine.store import screening
from engine.store.connect import Connection
from engine.store.screening import Found, Hit, LastRun, Reading


@dataclass(frozen=True)
class Screened:
    """What a run against one list did.

    Attributes:
        name: of the list.
        version: as the list calls itself.
        sha256: hex hash of its bytes.
        entries: how many it has.
        compared: names that were compared with all or with new entries.
        hits: new ones.
    """

    name: str
    version: str
    sha256: str
    entries: int
    compared: int
    hits: tuple[Hit, ...]


def specs(policy: Policy) -> list[ListSpec]:
    """The lists that a policy wants."""
    return [ListSpec.parse(text) for text in policy.screening_lists]


def list_at(connection: Connection, spec: ListSpec, at: datetime, max_age_s: int) -> tuple[Reading, ScreeningList]:
    """The list as it was stored nearest an instant, read.

    Raises:
        UncheckedError: none was stored within the age, or it cannot be read: that is not the same as no hits.
    """
    reading = screening.reading_near(connection, spec.name, at, max_age_s)
    if reading is None:
        raise UncheckedError(
            f"list {spec.name} has no stored reading within {max_age_s} s of {at:%Y-%m-%d %H:%M} UTC",
            rule="a list that is missing or stale is UNKNOWN, not a list without hits",
            next_step=f"compline accounts capture-list {spec.name} FILE, at every cut-off",
        )
    try:
        return reading, read_list(spec, screening.raw_of(connection, reading.reading_id))
    except InputError as error:
        raise UncheckedError(error.what, rule=error.rule, next_step=error.next_step) from error


def screen_all(
    connection: Connection,
    spec: ListSpec,
    reading: Reading,
    listed: ScreeningList,
    threshold: int,
    close_date: date | None,
) -> Screened:
    """Compare everybody with a list, as far as that was not done yet, and act on the hits.

    Args:
        connection: inside the caller's transaction, which commits hits and run together.
        spec: name and format.
        reading: where the list is stored.
        listed: the list.
        threshold: whole per cent.
        close_date: of the close that asks, none at other times.
    """
    screening.lock_list(connection, spec.name)
    before = screening.last_run(connection, spec.name)
    run = LastRun(reading.reading_id, reading.sha256, spec.format, threshold, VERSION, screening.horizon(connection))
    found: list[Found] = []
    compared = 0
    if before is None or (before.threshold, before.matcher, before.format) != (threshold, VERSION, spec.format):
        compared += _compare(connection, listed.entries, threshold, found)
    else:
        known: set[str] = {entry.sha256 for entry in listed.entries}
        if before.sha256 != reading.sha256:
            old = read_list(spec, screening.raw_of(connection, before.reading_id))
            known = {entry.sha256 for entry in old.entries}
        new = [entry for entry in listed.entries if entry.sha256 not in known]
        compared += _compare(connection, listed.entries, threshold, found, since=before.below)
        if new:
            compared += _compare(connection, new, threshold, found)
    hits = screening.take_hits(connection, close_date, spec.name, listed.version, listed.sha256, found)
    done = Screened(spec.name, listed.version, listed.sha256, len(listed.entries), compared, tuple(hits))
    if before is not None and before.sha256 == reading.sha256 and not compared and not hits:
        return done
    screening.write_run(
        connection,
        close_date,
        spec.name,
        listed.version,
        run,
        entries=len(listed.entries),
        compared=compared,
        new_hits=len(hits),
    )
    return done


def screen_user(connection: Connection, policy: Policy, user_id: int, at: datetime) -> list[Screened]:
    """Compare one user with every list of the policy as it stands at an instant, and act on the hits.

    Args:
        connection: as the application.
        policy: whose lists.
        user_id: whom.
        at: the present, mostly.

    Raises:
        UncheckedError: a list is missing, stale or unreadable; hits on the lists before it stand.
    """
    done = []
    for spec in specs(policy):
        with connection.transaction():
            done.append(_screen_user(connection, policy, spec, user_id, at))
    return done


def _screen_user(connection: Connection, policy: Policy, spec: ListSpec, user_id: int, at: datetime) -> Screened:
    """Compare one user with one list."""
    _, listed = list_at(connection, spec, at, policy.screening_list_max_age_s)
    found: list[Found] = []
    compared = _compare(connection, listed.entries, policy.screening_threshold, found, user_id=user_id)
    hits = screening.take_hits(connection, None, spec.name, listed.version, listed.sha256, found)
    return Screened(spec.name, listed.version, listed.sha256, len(listed.entries), compared, tuple(hits))


def _compare(
    connection: Connection,
    entries: Sequence[ListEntry],
    threshold: int,
    found: list[Found],
    *,
    since: str | None = None,
    user_id: int | None = None,
) -> int:
    """Add every match of names and addresses with entries to `found`; returns how many names were compared."""
    addresses = [(address, entry) for entry in entries for address in entry.addresses]
    for number, who, nth in screening.addresses_on(connection, [a for a, _ in addresses], since, user_id):
        entry = addresses[nth][1]
        found.append(Found(who, entry.entry_id, entry.sha256, "address", number, 100))
    writings: list[tuple[str, ListEntry]] = []
    index: NameIndex | None = None
    compared = 0
    for numbers, users, texts in screening.names(connection, since, user_id):
        compared += len(texts)
        if index is None:
            writings = [(text, entry) for entry in entries for text in dict.fromkeys(map(normal, entry.names))]
            index = NameIndex([text for text, _ in writings], threshold)
        for match in index.matches([normal(text) for text in texts]):
            entry = writings[match.entry][1]
            who, number = users[match.name], numbers[match.name]
            found.append(Found(who, entry.entry_id, entry.sha256, "name", number, match.score))
    return compared
