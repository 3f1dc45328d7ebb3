"""Command requests and what else settlement keeps of commands: requests read and answered, tiers, holds for debts.

What belongs here: the rows of `exchange.command_requests`, `exchange.fee_tiers`, `exchange.user_tiers`, and the batches
of tiers that a request puts in force.
What does not: what a request is as a command (see `engine.exchange.requests`), and journals (see `settlement`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from engine.clock import from_day_number, from_us
from engine.exchange.events import (
    AccountTierSet,
    CommandAnswered,
    Event,
    TierSet,
    TiersSet,
    Transfer,
    TransferKind,
)
from engine.exchange.requests import CommandRequest, staging_of

CHANNEL = "command_requests"
"""Notified when a request is committed."""

LISTENER = "compline requests"
"""The session under which a served exchange listens for requests."""

_MOVED_BY_REQUEST = {
    TransferKind.REWARD: "reward",
    TransferKind.DEPOSIT_REVERSED: "deposit_reversed",
    TransferKind.WITHDRAWAL_CONFIRMED: "withdrawal_confirmed",
    TransferKind.WITHDRAWAL_FAILED: "withdrawal_failed",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for a command that moved a balance, and why; empty where the request does not say."""

    actor: str
    reason: str


NOBODY = Asked("", "")


def is_listening(connection: psycopg.Connection) -> bool:
    """Whether an exchange is served that hears of requests."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s)",
        (LISTENER,),
    ).fetchone()
    return bool(row and row[0])


def unanswered(connection: psycopg.Connection, limit: int = 500) -> list[CommandRequest]:
    """Requests that no settled command answers, in the order in which they were made.

    What was settled before this is read has answered: such a request is in no command up to the cursor.
    """
    rows = connection.execute(
        "SELECT request_key, kind, reference, payload FROM exchange.command_requests WHERE outcome IS NULL"
        " ORDER BY request_no LIMIT %s",
        (limit,),
    ).fetchall()
    return [CommandRequest(str(key), str(kind), str(reference), payload) for key, kind, reference, payload in rows]


def in_parts(connection: psycopg.Connection, request: CommandRequest) -> Iterator[CommandRequest]:
    """A request with what is journalled before it: the rows of a batch of tiers."""
    if request.kind == "set_tiers":
        batch = (request.payload["batch"],)
        rates = connection.execute(
            "SELECT tier, maker_rate_ppm, taker_rate_ppm FROM exchange.tier_batch_rates WHERE batch = %s ORDER BY tier",
            batch,
        ).fetchall()
        moves = connection.execute(
            "SELECT tier, array_agg(user_id ORDER BY user_id) FROM exchange.tier_batch_users WHERE batch = %s"
            " GROUP BY tier ORDER BY tier",
            batch,
        ).fetchall()
        yield from staging_of(request, rates, moves)
    yield request


def refuse(connection: psycopg.Connection, key: str, why: str) -> None:
    """Answer a request that can be no command."""
    connection.execute("SELECT exchange.answer_invalid_request(%s, %s)", (key, why))


def asked_by(connection: psycopg.Connection, events: Sequence[Event]) -> dict[tuple[TransferKind, str], Asked]:
    """Who asked for which of these transfers; a correction's words are those of its approval (see `adjustments`)."""
    moved = [(_MOVED_BY_REQUEST[e.kind], e) for e in events if isinstance(e, Transfer) and e.kind in _MOVED_BY_REQUEST]
    if not moved:
        return {}
    rows = connection.execute(
        "SELECT r.kind, r.reference, coalesce(r.payload ->> 'actor', ''), coalesce(r.payload ->> 'reason', '')"
        " FROM unnest(%s::text[], %s::text[]) AS w (kind, reference)"
        " JOIN exchange.command_requests r USING (kind, reference)",
        ([kind for kind, _ in moved], [event.reference for _, event in moved]),
    ).fetchall()
    words = {word: kind for kind, word in _MOVED_BY_REQUEST.items()}
    return {(words[kind], reference): Asked(actor, reason) for kind, reference, actor, reason in rows}


def settle_commands(connection: psycopg.Connection, events: Sequence[Event]) -> None:
    """Keep what a batch of events says beside its journals: answers, tiers, holds for debts.

    Args:
        connection: inside the transaction that moves the settlement cursor, after the journals were written.
        events: in sequence order, none of them settled before.
    """
    _answer(connection, [event for event in events if isinstance(event, CommandAnswered)])
    _tiers(connection, events)
    for event in events:
        if isinstance(event, Transfer) and event.owed_units:
            connection.execute("SELECT accounts.hold_for_debt(%s, %s)", (event.account, event.reference))


def _answer(connection: psycopg.Connection, answers: list[CommandAnswered]) -> None:
    if not answers:
        return
    open_ones = {
        (str(kind), str(reference))
        for kind, reference in connection.execute(
            "SELECT kind, reference FROM exchange.command_requests WHERE outcome IS NULL"
        )
    }
    said = [one for one in answers if (one.kind, one.reference) in open_ones]
    if said:
        connection.execute(
            "SELECT exchange.answer_requests(%s, %s, %s::bigint[], %s)",
            (
                [one.kind for one in said],
                [one.reference for one in said],
                [one.engine_seq for one in said],
                [one.outcome for one in said],
            ),
        )


def _tiers(connection: psycopg.Connection, events: Sequence[Event]) -> None:
    rates = [e for e in events if isinstance(e, TierSet)]
    moves = [e for e in events if isinstance(e, AccountTierSet)]
    for event in events:
        if isinstance(event, TiersSet):
            _batch(connection, event)
    with connection.cursor() as cursor:
        if rates:
            cursor.executemany(
                "INSERT INTO exchange.fee_tiers VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(*_when(e), e.tier, e.maker_rate_ppm, e.taker_rate_ppm) for e in rates],
            )
        if moves:
            cursor.executemany(
                "INSERT INTO exchange.user_tiers VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(*_when(e), e.account, e.tier) for e in moves],
            )


def _batch(connection: psycopg.Connection, event: TiersSet) -> None:
    """Every row of a batch, under the one sequence from which all of it applies."""
    when = dict(zip(("seq", "day", "at"), _when(event), strict=True))
    tiers, makers, takers = zip(*event.rates, strict=True) if event.rates else ((), (), ())
    connection.execute(
        "INSERT INTO exchange.fee_tiers SELECT %(seq)s, %(day)s, %(at)s, r.* FROM unnest(%(tiers)s::integer[],"
        " %(makers)s::integer[], %(takers)s::integer[]) r ON CONFLICT DO NOTHING",
        {**when, "tiers": list(tiers), "makers": list(makers), "takers": list(takers)},
    )
    connection.execute(
        "INSERT INTO exchange.user_tiers SELECT %(seq)s, %(day)s, %(at)s, r.* FROM unnest(%(users)s::bigint[],"
        " %(tiers)s::integer[]) r ON CONFLICT DO NOTHING",
        {
            **when,
            "users": [account for _, accounts in event.accounts for account in accounts],
            "tiers": [tier for tier, accounts in event.accounts for _ in accounts],
        },
    )


def _when(event: TierSet | AccountTierSet | TiersSet) -> tuple[object, ...]:
    return event.engine_seq, from_day_number(event.close_day), from_us(event.sequenced_us)
