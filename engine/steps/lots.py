"""Step `lots`: the day's events booked into the lots that were carried from the day before.

What belongs here: reading the day, booking it, writing what it leaves.
What does not: what events are worth (the database), and which lot goes first (see `engine.valuation`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from engine.canonical import sha256_jcs
from engine.clock import day_number
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, runs
from engine.store import lots as store
from engine.store.connect import Connection
from engine.store.copy_binary import EPOCH_DAYS
from engine.store.days import Day
from engine.valuation.day import book_day
from engine.valuation.events import positions_of
from engine.valuation.method import Method

NOT_KEPT = StepOutput(0, sha256_jcs("not kept"), {"kept": "no: the policy asks for neither identity"})


def opening_digest(connection: Connection, context: StepContext) -> str | None:
    """Digest of what the day before left; none for the genesis day, whose lots this day's close writes."""
    yesterday = context.close_date - timedelta(days=1)
    before = days.read(connection, yesterday)
    run = runs.read(connection, yesterday, "unrealized_pnl", before.version) if before else None
    return run.output_digest if run else None


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books, whose hash covers events and marks, the policy, and what the day before left."""
    return {
        "books_sha256": day.books_sha256,
        "version": day.version,
        "policy_sha256": context.policy.sha256,
        "opening": opening_digest(connection, context),
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Book the day.

    Raises:
        GateError: a user has a balance and no lots, or disposes of more than he has; names the user.
        UncheckedError: an event has no fresh mark; names the asset.
    """
    if not context.policy.books_lots:
        return NOT_KEPT
    date, version = context.close_date, day.version
    store.begin(connection, date, context.epoch)
    assets = store.assets_on(connection, date)
    trades = store.read_trades(connection, date, version, assets)
    transfers = store.read_transfers(connection, date, version, assets)
    positions = positions_of(trades, transfers, len(assets.symbols))
    opening = store.read_opening(connection, date, positions, assets)
    booked = book_day(
        trades,
        transfers,
        positions,
        opening,
        method=Method.parse(context.policy.lot_method),
        fees_into_price=context.policy.fee_treatment == "capitalised",
        currency=assets.currency,
        day=day_number(date) - EPOCH_DAYS,
    )
    digest = store.write_day(connection, date, version, booked, positions, assets)
    facts: dict[str, Any] = {
        "method": context.policy.lot_method,
        "fills": len(trades.seq),
        "transfers": len(transfers.seq),
        "positions_changed": len(positions.users),
        "lots_before": len(opening.lot_seq),
        "lots_after": len(booked.lot_keys),
    }
    return StepOutput(len(booked.lot_keys), digest, facts)


STEP = Step(name="lots", event_stage="pnl", inputs=inputs, write=write)
