"""Gates against other sources see one state of both sides; a lease is lost to a successor, not to the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date

import psycopg
import pytest

from engine.errors import UncheckedError
from engine.steps import engine_vs_ledger
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import breaks, runs
from engine.store.connect import Connection, typed_errors
from engine.store.days import Day
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book, one_snapshot
from tests.fixtures.breaks import as_app, ghost_deposit, state
from tests.fixtures.closers import policy_with
from tests.fixtures.seals import attempt, refused

GATES = ("custody_covers_liabilities", "engine_vs_ledger", "ledger_vs_custody", "staking_vs_chain")


def test_gate_against_another_source_is_judged_in_one_snapshot_or_not_at_all(ready: BookUnderTest) -> None:
    day = ready.days[0]
    found = ready.value("SELECT string_agg(gate, ' ' ORDER BY gate) FROM recon.known_gates WHERE one_snapshot")
    assert str(found).split() == list(GATES)
    assert {one.name for one in STEPS if one.one_snapshot} == set(GATES)
    for gate in GATES:
        with attempt(ready, day) as tried, refused("CL047", match="is judged in a transaction that is read committed"):
            tried.app.execute("SELECT recon.judge(%s, %s, %s)", (day, gate, tried.context.epoch))


def test_what_others_commit_meanwhile_is_not_seen_by_the_step(ready: BookUnderTest) -> None:
    seen = []

    def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
        for text in ("first", "second"):
            row = connection.execute("SELECT count(*), current_setting('transaction_isolation') FROM events.outbox")
            seen.append(row.fetchone())
            with ready.admin() as other:
                runs.put_event(other, f"snapshot-{text}", "eod.test", {})
        raise UncheckedError("enough seen")

    with ready.closing(ready.days[0]) as context, pytest.raises(UncheckedError, match="enough seen"):
        run_step(Step("made_up", "made_up", lambda *_: {}, write, one_snapshot=True), context)
    assert seen[0] == seen[1]
    assert seen[0][1] == "repeatable read"


@pytest.fixture(scope="module")
def broken(settings: Settings, template: None) -> Iterator[BookUnderTest]:
    """A book whose first date has failed with one break."""
    made = new_book(settings, SMALL)
    ghost_deposit(made, made.days[0])
    assert made.close(made.days[0])[-1].status == "failed"
    yield made
    drop_book(made)


Meddle = Callable[[BookUnderTest, StepContext, int], None]


def somebody_takes_the_break(book: BookUnderTest, context: StepContext, attempt_: int) -> None:
    as_app(book, lambda c: breaks.assign(c, 1, f"person-{attempt_}", "carl"))


def lease_is_renewed(book: BookUnderTest, context: StepContext, attempt_: int) -> None:
    with book.app() as app:
        app.execute("SELECT close.renew_lease(%s, %s, %s, 30)", (context.close_date, context.run_id, context.epoch))


def judged_beside(book: BookUnderTest, meddle: Meddle, times: int) -> tuple[int, str]:
    """Run the step anew while somebody changes what it will write; attempts and its status."""
    attempts = 0

    def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
        nonlocal attempts
        attempts += 1
        if attempts <= times:
            meddle(book, context, attempts)
        return engine_vs_ledger.inputs(connection, context, day)

    with book.closing(book.days[0]) as context:
        done = run_step(replace(engine_vs_ledger.STEP, inputs=inputs), context)
    return attempts, done.status


@pytest.mark.parametrize("meddle", [somebody_takes_the_break, lease_is_renewed])
def test_a_change_under_the_snapshot_has_the_step_done_again(broken: BookUnderTest, meddle: Meddle) -> None:
    assert judged_beside(broken, meddle, 2) == (3, "failed")
    assert broken.value("SELECT count(*) FROM recon.breaks") == 1
    if meddle is somebody_takes_the_break:
        assert state(broken) == "investigating"
        assert broken.value("SELECT count(*) FROM recon.break_events WHERE what = 'assigned'") == 2


def test_who_is_always_in_the_way_makes_it_unknown(broken: BookUnderTest) -> None:
    with pytest.raises(UncheckedError, match="met changes of others 5 times"):
        judged_beside(broken, somebody_takes_the_break, 100)
    status = "SELECT status FROM close.eod_runs WHERE step_name = 'engine_vs_ledger' ORDER BY attempt DESC LIMIT 1"
    assert broken.value(status) == "unknown"


# The lease under a long transaction.


def runs_out(book: BookUnderTest, day: date, who: str, in_s: float = 0.3) -> int:
    """A lease whose time is up in a moment, or was, and nobody renews it."""
    with book.admin() as owner:
        row = owner.execute("SELECT close.take_lease(%s, %s, 1, true)", (day, who)).fetchone()
        owner.execute(
            "UPDATE close.leases SET expires_at = clock_timestamp() + make_interval(secs => %s) WHERE close_date = %s",
            (in_s, day),
        )
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("snapshot", [False, True])
def test_lease_that_a_transaction_has_locked_does_not_run_out_in_it(ready: BookUnderTest, snapshot: bool) -> None:
    day = ready.days[1]
    epoch = runs_out(ready, day, "slow")
    taken: list[int | None] = []

    def take() -> None:
        with ready.app() as other:
            row = other.execute("SELECT close.take_lease(%s, 'heir', 30, false)", (day,)).fetchone()
            taken.append(row[0] if row else None)

    heir = threading.Thread(target=take)
    app = one_snapshot(ready.app()) if snapshot else ready.app()
    with app, app.transaction():
        app.execute("SELECT close.fence(%s, %s)", (day, epoch))
        app.execute("SELECT pg_sleep(0.4)")
        heir.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        deadline = time.monotonic() + 10
        while not ready.value(waits, app.info.backend_pid):
            assert time.monotonic() < deadline, "the heir does not wait"
            time.sleep(0.02)
        app.execute("SELECT close.fence(%s, %s)", (day, epoch))
        assert taken == []
    heir.join()
    assert taken == [epoch + 1]
    with ready.app() as app, typed_errors(), pytest.raises(psycopg.Error, match="no longer holds the lease"):
        app.execute("SELECT close.fence(%s, %s)", (day, epoch))


def test_lease_whose_time_is_up_is_lost_to_a_successor_or_by_giving_it_back(ready: BookUnderTest) -> None:
    day = ready.days[1]

    def fence(epoch: int) -> None:
        with ready.app() as app:
            app.execute("SELECT close.fence(%s, %s)", (day, epoch))

    epoch = runs_out(ready, day, "late", in_s=-0.1)
    fence(epoch)
    heir = runs_out(ready, day, "heir")
    with refused("CL006", match="no longer holds the lease"):
        fence(epoch)
    fence(heir)
    with ready.app() as app:
        app.execute("SELECT close.release_lease(%s, 'heir', %s)", (day, heir))
    with refused("CL006", match="no longer holds the lease"):
        fence(heir)


def test_step_may_take_longer_than_its_lease(make_book: MakeBook) -> None:
    book = make_book(policy=policy_with(lease_ttl_s=1))
    day = book.days[0]

    def write(connection: Connection, context: StepContext, day_: Day) -> StepOutput:
        connection.execute("SELECT pg_sleep(1.4)")
        return StepOutput(0, "0" * 64)

    with book.closing(day) as context:
        step = Step("made_up", "made_up", lambda *_: {}, write, before_cutoff=True, one_snapshot=True)
        assert run_step(step, context).status == "succeeded"
