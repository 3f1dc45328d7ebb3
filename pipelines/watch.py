"""The watch: a process of its own that looks at a book, raises alerts, sends them, and keeps a heartbeat going.

What belongs here: one look, and the loop. It needs neither Dagster nor its daemon, so it speaks when those are dead.
What does not: what makes an alert (`engine.close.alerts`), its rows (`engine.store.alerts`), and channels
(`engine.gateways.alert_channels`).
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg

from engine import clock
from engine.clock import CloseDate
from engine.close.alerts import CRITICAL, Alert, break_stuck, from_event, markers_overdue, seal_overdue
from engine.errors import ComplineError, UncheckedError
from engine.exchange.live import live_since
from engine.gateways.alert_channels import Channel, channels_of
from engine.money import text_of
from engine.store import alerts, books, days, markers
from engine.store.accounts import sweep_obligations
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.local.files import read_secret
from pipelines.settings import Settings

CHANNELS_SECRET = "alert_urls"
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=15)
HEARTBEAT_TIMEOUT_S = 10.0
Talk = Callable[[str], None]


class HeartbeatError(UncheckedError):
    """The outside that listens for the heartbeat does not answer; the book itself was looked at."""


@dataclass
class Look:
    """What one look at a book found and did.

    Attributes:
        raised: titles of new alerts.
        sent: deliveries that arrived.
        unsent: channel and why, of those that did not.
        overdue: close dates past their deadline without a seal, the oldest first.
    """

    raised: list[str] = field(default_factory=list)
    sent: int = 0
    unsent: list[str] = field(default_factory=list)
    overdue: list[CloseDate] = field(default_factory=list)


def channels(settings: Settings) -> list[Channel]:
    """Where alerts go: COMPLINE_ALERT_URLS, else the file `secrets/alert_urls` of the home; none where neither is.

    Raises:
        ConfigError: a line is no URL that Apprise knows.
    """
    given = (
        settings.alert_urls.get_secret_value() if settings.alert_urls else read_secret(settings.home, CHANNELS_SECRET)
    )
    return channels_of(given or "")


def look(opened: OpenBook, places: Sequence[Channel], now: datetime) -> Look:
    """Look once: events become alerts, deadlines and stuck breaks too, and what waits is sent.

    Args:
        opened: the book.
        places: every channel.
        now: the instant.

    Raises:
        UncheckedError: the database does not answer.
    """
    done = Look()
    with closing(connect(opened.url, autocommit=True, application="compline watch")) as connection, typed_errors():
        alone = connection.execute("SELECT pg_try_advisory_lock(hashtext('events.watch'))").fetchone()
        if not alone or not alone[0]:
            return done  # another watch is at it
        names = [place.name for place in places]
        with connection.transaction():
            sweep_obligations(connection)
        _from_events(connection, opened, names, now, done)
        _from_deadlines(connection, opened, names, now, done)
        _send(connection, {place.name: place for place in places}, done)
    return done


def _from_events(connection: psycopg.Connection, opened: OpenBook, names: list[str], now: datetime, done: Look) -> None:
    """An event is marked as looked at in the transaction that remembers its alert."""
    while True:
        with connection.transaction():
            events = alerts.unwatched_events(connection)
            for _, subject, payload in events:
                alert = from_event(subject, payload)
                if alert is not None:
                    _raise(connection, opened, alert, names, now, done)
            alerts.mark_watched(connection, [event[0] for event in events], now)
        if len(events) < alerts.BATCH:
            return


def _from_deadlines(
    connection: psycopg.Connection, opened: OpenBook, names: list[str], now: datetime, done: Look
) -> None:
    with connection.transaction():
        due = _overdue(connection, opened, now)
        done.overdue = [day for day, _, _ in due]
        for day, at, state in due[:1]:
            _raise(connection, opened, seal_overdue(opened.book.name, day, at, state), names, now, done)
        limit = opened.card.policy.break_stuck_days
        for old in alerts.old_breaks(connection, now.date() - timedelta(days=limit)):
            age = (now.date() - old.first_date).days
            alert = break_stuck(
                opened.book.name, old.break_id, old.subject, old.asset, text_of(old.difference), age, old.owner
            )
            _raise(connection, opened, alert, names, now, done)
        if (since := _uncompared_since(connection, opened, now)) is not None:
            _raise(connection, opened, markers_overdue(opened.book.name, since), names, now, done)


def _uncompared_since(connection: psycopg.Connection, opened: OpenBook, now: datetime) -> str | None:
    """Since when a live exchange has no result of a marker, if that is for longer than twice the policy's time."""
    started = live_since(opened.files.journal_dir)
    every_s, deadline_s = markers.rule(connection)
    if started is None or not every_s:
        return None
    last = markers.last_judged(connection) or started
    return f"{last:%Y-%m-%d %H:%M} UTC" if now - last > timedelta(seconds=2 * every_s + deadline_s) else None


def _overdue(connection: psycopg.Connection, opened: OpenBook, now: datetime) -> list[tuple[CloseDate, datetime, str]]:
    """Dates whose deadline has passed without a seal: (date, when it was due, its state)."""
    there = {day.close_date: day for day in days.all_days(connection)}
    reopened: dict[CloseDate, datetime] = dict(
        connection.execute("SELECT close_date, max(at) FROM close.reopenings GROUP BY 1").fetchall()
    )
    found = []
    day = opened.book.first_day
    while True:
        state = there[day].state if day in there else "not open"
        if state != "sealed":
            policy = books.policy_on(connection, day)
            instant = max(policy.cutoff_rule.instant(day), reopened.get(day, datetime.min.replace(tzinfo=now.tzinfo)))
            due = instant + timedelta(seconds=policy.seal_deadline_s)
            if due > now and day not in reopened:
                return found
            if due <= now:
                found.append((day, due, state))
        day += timedelta(days=1)


def _raise(
    connection: psycopg.Connection, opened: OpenBook, alert: Alert, names: list[str], now: datetime, done: Look
) -> None:
    pause = timedelta(seconds=opened.card.policy.alert_pause_s)
    if alerts.raise_alert(connection, alert, names, now, pause):
        done.raised.append(alert.title)


def _send(connection: psycopg.Connection, places: dict[str, Channel], done: Look) -> None:
    """Send what waits; a kill between sending and remembering sends it again: it may come twice, never not at all."""
    for one in alerts.waiting(connection, clock.now()):
        place = places.get(one.channel)
        try:
            if place is None:
                raise UncheckedError(f"channel {one.channel} is not configured any more")
            place.send(one.alert)
        except UncheckedError as error:
            wait = min(FIRST_WAIT * 2 ** min(one.attempts, 10), LONGEST_WAIT)
            alerts.not_delivered(connection, one, error.what, clock.now() + wait)
            done.unsent.append(f"{one.channel}: {error.what}")
        else:
            alerts.delivered(connection, one, clock.now())
            done.sent += 1


def beat(url: str) -> None:
    """Tell the outside that this book was looked at and nothing is overdue; its silence pages.

    Raises:
        HeartbeatError: the outside does not answer.
    """
    try:
        with urllib.request.urlopen(url, timeout=HEARTBEAT_TIMEOUT_S) as answer:  # an http or https URL, by settings
            answer.read(1024)
    except (OSError, ValueError) as error:
        raise HeartbeatError(
            f"the heartbeat could not be told: {type(error).__name__}",
            rule="its silence pages",
            next_step="check COMPLINE_HEARTBEAT_URL and the network",
        ) from None


def watch(opened: OpenBook, *, every_s: float, talk: Talk, stop: Callable[[], bool]) -> None:
    """Look again and again until told to stop; what fails is said, tried again, and silences the heartbeat.

    Args:
        opened: the book.
        every_s: seconds between two looks.
        talk: called with a line for a person.
        stop: asked between looks.
    """
    places = channels(opened.settings)
    away = False
    while not stop():
        try:
            done = look(opened, places, clock.now())
            away = False
            for line in [f"alert: {title}" for title in done.raised] + [f"not sent: {why}" for why in done.unsent]:
                talk(line)
            if opened.settings.heartbeat_url is not None and not done.overdue:
                beat(opened.settings.heartbeat_url.get_secret_value())
        except ComplineError as error:
            talk(str(error))
            away = _tell_away(opened, places, error, away, talk)
        time.sleep(every_s)


def _tell_away(opened: OpenBook, places: Sequence[Channel], error: ComplineError, away: bool, talk: Talk) -> bool:
    """A database that is away cannot remember its own alert: it is sent at once, once until it is back."""
    if away or isinstance(error, HeartbeatError):
        return away
    alert = Alert(
        key=f"{opened.book.name}:database",
        severity=CRITICAL,
        title=f"book {opened.book.name} cannot be looked at",
        facts=(("what", error.what),),
        runbook="database_away.md",
        command="compline doctor",
    )
    for place in places:
        try:
            place.send(alert)
        except UncheckedError as unsent:
            talk(unsent.what)
    return True
