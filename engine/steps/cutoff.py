"""Step `cutoff`: the sequence barrier of a day, with everything before it settled.

What belongs here: refusing dates that cannot be closed, journalling the cut-off, settling to it, moving the day.
What does not: captures at the barrier (see `engine_balances`, `mark_prices`).
"""

from __future__ import annotations

from pathlib import Path

from engine.canonical import sha256_jcs
from engine.clock import CloseDate, CutOffs, CutOffSchedule, day_number, from_day_number, from_us, iso_us
from engine.errors import GateError, UncheckedError, UsageError
from engine.exchange import history
from engine.exchange.journal import journal_path
from engine.exchange.sequencer import open_exchange
from engine.steps import genesis
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.steps.requested import journal_requests
from engine.steps.settling import settle
from engine.store import books, days, moves
from engine.store.connect import Connection
from engine.store.days import Day


def check_date(connection: Connection, context: StepContext) -> None:
    """Refuse a date that is not there to be closed.

    Raises:
        UsageError: it lies before the first day, or its cut-off has not come.
        GateError: its predecessor is not reconciled.
    """
    day, first = context.close_date, context.book.first_day
    if day < first:
        raise UsageError(
            f"{day} lies before the first day of book {context.book.name}, {first}",
            rule="a book is closed from its first day on",
            next_step=f"close {first} or later",
        )
    instant = context.policy.cutoff_rule.instant(day)
    if instant > context.now:
        raise UsageError(
            f"{day} ends at {instant:%Y-%m-%d %H:%M} UTC, which has not come",
            rule="a date is closed at or after its cut-off",
            next_step="wait for the cut-off, or close an earlier date",
        )
    before = days.read(connection, day.fromordinal(day.toordinal() - 1))
    if day > first and (before is None or before.state not in ("reconciled", "sealed")):
        state = before.state if before else "not open"
        raise GateError(
            f"{day} cannot be closed: its predecessor {day.fromordinal(day.toordinal() - 1)} is {state}",
            rule="days close in order",
            next_step=f"compline close backfill {first} {day}",
        )


def prepare(connection: Connection, context: StepContext) -> None:
    """Journal the cut-off where the exchange has not, settle up to it, and journal what the database asked for."""
    check_date(connection, context)
    day = days.read(connection, context.close_date)
    connection.rollback()
    if day is not None and day.state not in ("open", "reopened"):
        return
    _require_journal(context)
    cutoffs = CutOffSchedule.of(books.cutoffs(connection))
    connection.rollback()
    first_day = context.book.first_day
    settled = moves.settled_to(connection)
    connection.rollback()
    barrier = barrier_of(
        context.journal_dir, context.close_date, first_day=first_day, cutoffs=cutoffs, settled_seq=settled
    )
    genesis.ensure_sealed(connection, context)
    settle(connection, context.journal_dir, barrier.seq)
    # After the cut-off: what was asked for belongs to the next open day.
    journal_requests(
        connection,
        context.journal_dir,
        first_day=first_day,
        cutoff_rule=cutoffs,
        now=context.now,
    )


def _require_journal(context: StepContext) -> None:
    """Refuse to close without the record of the day.

    Raises:
        UncheckedError: there is no journal.
    """
    if not journal_path(context.journal_dir).exists():
        raise UncheckedError(
            f"book {context.book.name} has no journal at {context.journal_dir}",
            rule="the journal is the record of the day",
            next_step="restore the journal, or load the book: compline demo, compline exchange import-tape FILE",
        )


def barrier_of(
    journal_dir: Path, close_date: CloseDate, *, first_day: CloseDate, cutoffs: CutOffs, settled_seq: int
) -> history.JournalledCutOff:
    """The journalled cut-off of a date that has ended; journalled now where the exchange has been quiet since.

    It is in the journal itself, on the disk: a close that goes on after a power cut reads it there. A journal that
    does not reach what was settled has lost power; opened, it takes back what its commit log holds.
    """
    cuts = {cut.close_date: cut for cut in history.cut_offs(journal_dir)}
    if close_date not in cuts or not history.reaches(journal_dir, settled_seq):
        with open_exchange(journal_dir, first_day=first_day, cutoff_rule=cutoffs) as sequencer:
            for number in range(sequencer.engine.open_day, day_number(close_date) + 1):
                sequencer.cut_off(from_day_number(number))
        cuts = {cut.close_date: cut for cut in history.cut_offs(journal_dir)}
    history.make_durable(journal_dir)
    return cuts[close_date]


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The date, its cut-off and the policy: a barrier never moves."""
    return {"close_date": str(context.close_date), "policy_sha256": context.policy.sha256, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Move the day to `cutoff` at the journalled barrier."""
    barrier = history.cut_off_of(context.journal_dir, context.close_date)
    at = from_us(barrier.ts_us)
    moves.cut_off(connection, context.close_date, context.epoch, barrier.seq, at)
    trades, journals = moves.counts(connection, context.close_date)
    facts = {"barrier_seq": barrier.seq, "cutoff_at": iso_us(at)}
    return StepOutput(1, sha256_jcs(facts), {**facts, "trades": trades, "journals": journals})


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """A cut-off stands while the day is not open again."""
    return day.state not in ("open", "reopened")


STEP = Step(
    name="cutoff",
    event_stage="cutoff",
    completes=True,
    inputs=inputs,
    write=write,
    prepare=prepare,
    still_valid=still_valid,
    before_cutoff=True,
)
