"""A batch under way: its rows are with Postgres, in a transaction that has yet to check and commit them.

What belongs here: the turn that settlement's transactions take, and how one ends.
What does not: what a batch writes (see `settlement`), and which batch goes when (see `settlement_pipeline`).

Two transactions of settlement are open at most. The later one has sent its rows and had them checked, and no row that
others could wait for is locked by it: the guard on legs moves balances once the earlier has committed. So the earlier
never waits for the later, and the later commits only from where the earlier left the cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import psycopg

from engine.errors import ConflictError
from engine.exchange.events import AccountOpened, AssetListed, Event, MarketListed
from engine.exchange.state import Registry
from engine.store.account_deposits import settle_deposits
from engine.store.command_requests import settle_commands

_SLOT = "SELECT pg_advisory_xact_lock(hashtext('ledger.settlement'), %s)"
_UNDER_WAY = (
    "SELECT pg_advisory_xact_lock(hashtext('ledger.settles'), %s), set_config('compline.settles_after', %s, true)"
)
"""A batch's own lock, by where it ends, and the one of the batch before, which the guard on legs waits for."""
_HELD = (
    "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND objid = %s AND pid = %s"
    " AND classid = (hashtext('ledger.settlement')::bigint & 4294967295)::oid"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


_KEYS = 0x7FFFFFFF
"""Locks are numbered by 32-bit integers: the lower bits of a sequence tell a few batches apart."""


class OvertakenError(ConflictError):
    """Another consumer has settled what this one was about to."""


class _GivenUpError(Exception):
    """Rolls a transaction back."""


@dataclass(slots=True)
class Settled:
    """What a run of the consumer did."""

    trades: int = 0
    journals: int = 0
    already_there: int = 0
    last_seq: int = 0


@dataclass(slots=True)
class Flight:
    """A batch under way, until it lands or is given up.

    Attributes:
        connection: in a transaction; nobody else uses it.
        plain: its events that are not trades.
        registry: names and scales.
        since: where the cursor stands when the batch before has committed.
        slot: which of the two turns it holds.
        before: the batch that lands before it, until this one has waited for that.
        opens: whether it opens a day, which nobody else sees before it has landed.
        done: what it will have done.
        landing: set while `land` runs in a thread.
        told: done once who watches has been told of its landing, after which the batch after it may commit; cancelled
            where it has not landed or that failed.
    """

    connection: psycopg.Connection
    plain: Sequence[Event]
    registry: Registry
    since: int
    slot: int
    before: Flight | None = None
    opens: bool = False
    done: Settled = field(default_factory=Settled)
    landing: Future[Settled] | None = None
    told: Future[None] = field(default_factory=Future)
    transaction: ExitStack = field(default_factory=ExitStack)
    legs: ExitStack = field(default_factory=ExitStack)

    def takes_off(self, last_seq: int) -> None:
        """Say which batch this is, for the one after it, and which one lands before."""
        self.done.last_seq = last_seq
        after = "" if self.before is None else str(self.before.done.last_seq & _KEYS)
        self.connection.execute(_UNDER_WAY, (last_seq & _KEYS, after))

    def land(self) -> Settled:
        """Have the rows checked, balances moved once the batch before has landed, and the cursor; commit.

        Raises:
            psycopg.Error: the database refuses; nothing of the batch was written.
            OvertakenError: the cursor is not where the batch before left it; the same.
            CancelledError: the batch before has failed; the same.
        """
        with self.transaction:
            with self.legs:
                pass
            before, self.before = self.before, None
            if before is not None and before.landing is not None:
                before.told.result()
            settle_deposits(self.connection, self.plain, self.registry)
            settle_commands(self.connection, self.plain)
            moved = self.connection.execute(
                "UPDATE ledger.settlement_cursor SET last_seq = %s, at = clock_timestamp() WHERE last_seq = %s",
                (self.done.last_seq, self.since),
            )
            if moved.rowcount != 1:
                raise overtaken(self.since)
        return self.done

    def wait(self) -> None:
        """Wait until it has landed.

        Raises:
            Exception: what `land` raised.
        """
        if self.landing is not None:
            self.landing.result()

    def give_up(self) -> None:
        """Roll it back."""
        with suppress(_GivenUpError, psycopg.Error), self.transaction, self.legs:
            raise _GivenUpError


def enter(connection: psycopg.Connection) -> int:
    """Wait until no other consumer's transaction is open, take the first turn, and read where the cursor stands.

    A consumer holds one turn or the other from batch to batch; who enters waits for both, the first of which is his
    then. The second he gives back at once: his own next transaction takes it.
    """
    connection.execute(_SLOT, (0,))
    # A connection lost in here lets psycopg's Rollback out; the next statement says what is the matter.
    with suppress(psycopg.Rollback), connection.transaction() as inner:
        connection.execute(_SLOT, (1,))
        raise psycopg.Rollback(inner)
    row = connection.execute("SELECT last_seq FROM ledger.settlement_cursor FOR UPDATE").fetchone()
    assert row is not None
    return int(row[0])


def follow(connection: psycopg.Connection, before: Flight) -> int:
    """Take the turn after a batch that is landing; the cursor will stand where that leaves it.

    Raises:
        OvertakenError: that has committed meanwhile, so that another consumer may have entered.
    """
    connection.execute(_SLOT, (1 - before.slot,))
    # While the one before is open nobody else has entered, and from now on who enters waits for this one too.
    held = connection.execute(_HELD, (before.slot, before.connection.info.backend_pid)).fetchone()
    if held is None:
        raise overtaken(before.done.last_seq)
    return before.done.last_seq


def overtaken(expected: int) -> OvertakenError:
    """The refusal of a batch that is not the next one."""
    return OvertakenError(
        f"settlement does not stand at sequence {expected} any more",
        rule="a batch is settled after the one before it, by one consumer at a time",
        next_step="settle again: what another consumer has settled is left alone",
    )


def registers(events: Sequence[Event]) -> bool:
    """Whether events bring names that later ones are written with."""
    return any(isinstance(event, AssetListed | MarketListed | AccountOpened) for event in events)
