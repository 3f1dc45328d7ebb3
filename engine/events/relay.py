"""The outbox relay: what the database remembers is told on NATS, each event once.

What belongs here: publishing unpublished rows in order, with an id that JetStream removes duplicates by.
What does not: writing events (see `engine.store.runs`). NATS is transport: the row is the record.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import closing

import nats
import psycopg
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from nats.js.errors import Error as JetStreamError

from engine.errors import UncheckedError
from engine.store.connect import connect, typed_errors

STREAM = "COMPLINE"
SUBJECTS = ["eod.>", "account.>", "kyc.>", "custody.>"]
BATCH = 500
DUPLICATE_WINDOW_S = 3600.0


def relay(url: str, nats_url: str, *, timeout_s: float = 5.0) -> int:
    """Publish what the outbox holds, oldest first.

    Killed between publishing and marking, the next run publishes again under the same id, which JetStream drops.

    Args:
        url: the book's database, as the application.
        nats_url: the NATS server.
        timeout_s: for connecting and for each acknowledgement.

    Returns:
        How many events were published.

    Raises:
        UncheckedError: NATS or the database does not answer; the events stay in the outbox.
    """
    with closing(connect(url, autocommit=True, application="compline relay")) as connection, typed_errors():
        alone = connection.execute("SELECT pg_try_advisory_lock(hashtext('events.relay'))").fetchone()
        if not alone or not alone[0]:
            return 0
        waiting = _waiting(connection)
        if not waiting:
            return 0
        try:
            return asyncio.run(_publish_all(connection, nats_url, waiting, timeout_s))
        except (TimeoutError, NatsError, JetStreamError, OSError) as error:
            raise UncheckedError(
                f"NATS cannot be reached: {error or type(error).__name__}",
                rule="events stay in the outbox until they are acknowledged",
                next_step="compline doctor; the relay tries again by itself",
            ) from None


def _waiting(connection: psycopg.Connection) -> list[tuple[int, str, str, dict[str, object]]]:
    return connection.execute(
        "SELECT event_id, event_key, subject, payload FROM events.outbox WHERE published_at IS NULL"
        " ORDER BY event_id LIMIT %s",
        (BATCH,),
    ).fetchall()


async def _publish_all(
    connection: psycopg.Connection, nats_url: str, waiting: list[tuple[int, str, str, dict[str, object]]], limit: float
) -> int:
    client = await nats.connect(nats_url, connect_timeout=limit, allow_reconnect=False, error_cb=_quiet)
    try:
        stream = client.jetstream(timeout=limit)
        await stream.add_stream(StreamConfig(name=STREAM, subjects=SUBJECTS, duplicate_window=DUPLICATE_WINDOW_S))
        published = 0
        while waiting:
            for event_id, key, subject, payload in waiting:
                message_id = f"{connection.info.dbname}:{key}"
                await stream.publish(
                    subject, json.dumps(payload).encode(), headers={"Nats-Msg-Id": message_id}, timeout=limit
                )
                connection.execute(
                    "UPDATE events.outbox SET published_at = clock_timestamp() WHERE event_id = %s", (event_id,)
                )
                published += 1
            waiting = _waiting(connection)
        return published
    finally:
        await client.close()


async def _quiet(error: Exception) -> None:
    """The error reaches the caller by itself; the client's default would also print it."""
