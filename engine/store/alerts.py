"""Alerts and their deliveries: what was raised, what arrived where, what has to be tried again.

What belongs here: reading and writing `events.alerts`, `events.alert_deliveries`, and which events were looked at.
What does not: what makes an alert (see `engine.close.alerts`) and sending one (see `engine.gateways`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from engine.close.alerts import Alert

BATCH = 500
_COLUMNS = "a.alert_id, a.alert_key, a.severity, a.title, a.facts, a.runbook, a.command"


@dataclass(frozen=True)
class Waiting:
    """One alert that a channel does not have yet."""

    alert_id: int
    alert: Alert
    channel: str
    attempts: int


@dataclass(frozen=True)
class OldBreak:
    """A break that is neither corrected nor closed."""

    break_id: int
    subject: str
    asset: str
    difference: Decimal
    owner: str | None
    first_date: date
    last_date: date


def unwatched_events(connection: psycopg.Connection) -> list[tuple[int, str, dict[str, Any]]]:
    """Events that nobody has looked at yet, oldest first, locked until the transaction ends: (id, subject, payload)."""
    return connection.execute(
        "SELECT event_id, subject, payload FROM events.outbox WHERE watched_at IS NULL ORDER BY event_id LIMIT %s"
        " FOR UPDATE SKIP LOCKED",
        (BATCH,),
    ).fetchall()


def mark_watched(connection: psycopg.Connection, event_ids: Sequence[int], now: datetime) -> None:
    """Remember that these events were looked at."""
    connection.execute("UPDATE events.outbox SET watched_at = %s WHERE event_id = ANY (%s)", (now, list(event_ids)))


def raise_alert(
    connection: psycopg.Connection, alert: Alert, channels: Sequence[str], now: datetime, pause: timedelta
) -> bool:
    """Remember an alert and owe it to every channel; the same thing within the pause changes nothing.

    Returns:
        Whether it is new.
    """
    row = connection.execute(
        "INSERT INTO events.alerts (alert_key, episode, severity, title, facts, runbook, command, raised_at)"
        " SELECT %(key)s, coalesce(max(episode), 0) + 1, %(severity)s, %(title)s, %(facts)s, %(runbook)s, %(command)s,"
        " %(now)s FROM events.alerts WHERE alert_key = %(key)s"
        " HAVING coalesce(max(raised_at), '-infinity') <= %(now)s - %(pause)s::interval"
        " ON CONFLICT (alert_key, episode) DO NOTHING RETURNING alert_id",
        {
            "key": alert.key,
            "severity": alert.severity,
            "title": alert.title,
            "facts": json.dumps([list(fact) for fact in alert.facts]),
            "runbook": alert.runbook,
            "command": alert.command,
            "now": now,
            "pause": pause,
        },
    ).fetchone()
    if row is None:
        return False
    connection.execute(
        "INSERT INTO events.alert_deliveries (alert_id, channel, next_try_at)"
        " SELECT %s, c, %s FROM unnest(%s::text[]) c",
        (row[0], now, list(channels)),
    )
    return True


def waiting(connection: psycopg.Connection, now: datetime) -> list[Waiting]:
    """What has to be sent by now, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, d.channel, d.attempts FROM events.alert_deliveries d JOIN events.alerts a USING (alert_id)"
        " WHERE d.delivered_at IS NULL AND d.next_try_at <= %s ORDER BY a.alert_id, d.channel LIMIT %s".encode(),
        (now, BATCH),
    )
    return [Waiting(row[0], _alert(row[1:7]), row[7], row[8]) for row in rows]


def delivered(connection: psycopg.Connection, one: Waiting, now: datetime) -> None:
    """A channel has it."""
    connection.execute(
        "UPDATE events.alert_deliveries SET attempts = attempts + 1, delivered_at = %s, last_error = NULL"
        " WHERE alert_id = %s AND channel = %s",
        (now, one.alert_id, one.channel),
    )


def not_delivered(connection: psycopg.Connection, one: Waiting, why: str, next_try_at: datetime) -> None:
    """A channel could not be reached; it is tried again."""
    connection.execute(
        "UPDATE events.alert_deliveries SET attempts = attempts + 1, last_error = %s, next_try_at = %s"
        " WHERE alert_id = %s AND channel = %s",
        (why[:500], next_try_at, one.alert_id, one.channel),
    )


def recent(connection: psycopg.Connection, limit: int) -> list[dict[str, Any]]:
    """The last alerts, newest first, with how each channel stands; JSON-ready."""
    rows = connection.execute(
        "SELECT a.alert_id, close.iso_us(a.raised_at), a.severity, a.title, a.episode, a.runbook, a.command,"
        " coalesce((SELECT jsonb_object_agg(d.channel, CASE WHEN d.delivered_at IS NOT NULL THEN 'delivered'"
        " ELSE coalesce(d.last_error, 'waiting') END) FROM events.alert_deliveries d"
        " WHERE d.alert_id = a.alert_id), '{}')"
        " FROM events.alerts a ORDER BY a.alert_id DESC LIMIT %s",
        (limit,),
    )
    names = ("id", "raised_at", "severity", "title", "episode", "runbook", "command", "channels")
    return [dict(zip(names, row, strict=True)) for row in rows]


def old_breaks(connection: psycopg.Connection, before: date) -> list[OldBreak]:
    """Breaks first seen for a close date before this one that nobody has corrected or closed."""
    rows = connection.execute(
        "SELECT break_id, subject, asset, difference, owner, first_date, last_date FROM recon.breaks"
        " WHERE state NOT IN ('corrected', 'closed') AND first_date < %s ORDER BY break_id",
        (before,),
    )
    return [OldBreak(*row) for row in rows]


def _alert(row: Sequence[Any]) -> Alert:
    key, severity, title, facts, runbook, command = row
    return Alert(key, severity, title, tuple((str(n), str(v)) for n, v in facts), runbook, command)
