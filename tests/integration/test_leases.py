"""One closer a date: leases, epochs and the fence, under simultaneous and paused closers."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from engine.errors import StaleEpochError, StepTimeoutError
from engine.steps.context import Step, StepContext, StepOutput
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store.leases import CloseLease, LeaseHeldError
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.closers import (
    OK,
    close_in_child,
    effects,
    halt_in,
    in_child,
    like,
    policy_with,
    same,
    stats,
    stop_at,
    wait_for,
)


def test_of_eight_closers_at_once_one_has_its_effect_and_the_others_stand_back(
    clean: BookUnderTest, make_book: MakeBook
) -> None:
    book = like(clean, make_book)
    day = book.days[0]
    children = [close_in_child(book, day, who=f"closer{n}") for n in range(8)]
    codes = [wait_for(pid) for pid in children]
    assert OK in codes
    assert set(codes) <= {OK, LeaseHeldError.exit_code}
    assert effects(book, day) == (1, 1, 0, 1)
    with book.admin() as connection:
        runs = connection.execute(
            "SELECT count(DISTINCT run_id), count(DISTINCT epoch), max(attempt), count(*) FROM close.eod_runs"
            " WHERE close_date = %s", (day,)
        ).fetchone()  # fmt: skip
    assert runs == (1, 1, 1, len(STEPS))
    same(book, clean)


def test_second_closer_of_a_date_is_told_who_holds_it_and_another_date_is_free(clean: BookUnderTest) -> None:
    first, second = clean.days
    with (
        CloseLease(clean.opened.url, first, "alice", 30) as held,
        pytest.raises(LeaseHeldError, match="being closed by alice") as caught,
        CloseLease(clean.opened.url, first, "bob", 30, wait_s=0.3),
    ):
        pass
    assert (caught.value.exit_code, str(held.epoch) in str(caught.value)) == (75, True)
    with CloseLease(clean.opened.url, first, "alice", 30), CloseLease(clean.opened.url, second, "bob", 30, wait_s=0):
        pass


def test_epoch_only_grows_and_a_lease_given_back_is_free_at_once(clean: BookUnderTest) -> None:
    day, epochs = clean.days[0], []
    for who in ("a", "b", "a", "a"):
        with CloseLease(clean.opened.url, day, who, 30, wait_s=0) as lease:
            epochs.append(lease.epoch)
    assert epochs == sorted(set(epochs))


def test_closer_that_waited_for_another_to_finish_is_not_thought_dead_by_a_third(clean: BookUnderTest) -> None:
    day, url = clean.days[1], clean.opened.url
    for _ in range(4):
        first, second = CloseLease(url, day, "first", 30), CloseLease(url, day, "second", 30)
        first.take()
        waiting = threading.Thread(target=second.take)
        waiting.start()
        time.sleep(0.1)
        first.release()
        waiting.join()
        with pytest.raises(LeaseHeldError, match="by second"), CloseLease(url, day, "third", 30, wait_s=0.3):
            pass
        second.release()


def test_lease_is_renewed_while_its_holder_works(clean: BookUnderTest) -> None:
    day = clean.days[1]
    with CloseLease(clean.opened.url, day, "slow", 1) as lease:
        time.sleep(1.6)
        with clean.app() as app:
            app.execute("SELECT close.fence(%s, %s)", (day, lease.epoch))
        with pytest.raises(LeaseHeldError), CloseLease(clean.opened.url, day, "other", 1, wait_s=0):
            pass


def test_holder_that_took_over_from_a_paused_one_is_not_thought_dead_when_that_one_dies(clean: BookUnderTest) -> None:
    day, url = clean.days[1], clean.opened.url

    def hold_and_stop() -> int:
        CloseLease(url, day, "paused", 1).take()
        os.kill(os.getpid(), signal.SIGSTOP)
        return OK

    pid = in_child(hold_and_stop)
    wait_for(pid, stopped=True)
    with CloseLease(url, day, "heir", 1, wait_s=3) as heir:
        os.kill(pid, signal.SIGKILL)
        wait_for(pid)
        time.sleep(1.2)
        with pytest.raises(LeaseHeldError), CloseLease(url, day, "third", 1, wait_s=0):
            pass
        with clean.app() as app:
            app.execute("SELECT close.fence(%s, %s)", (day, heir.epoch))


# A paused closer.


@pytest.mark.parametrize(
    "where", ["before the first step", "in genesis", "in control_totals", "before the commit of the seal"]
)
def test_closer_paused_beyond_its_lease_writes_nothing_when_it_wakes(
    clean: BookUnderTest, make_book: MakeBook, where: str
) -> None:
    book = like(clean, make_book, lease_ttl_s=1, step_timeout_s=1)
    day = book.days[0]
    install = {
        "before the first step": stop_at("close.take_lease", 2),
        "in genesis": stop_at("ledger.write_control_totals", 2),
        "in control_totals": halt_in("control_totals", 9, signal.SIGSTOP),
        "before the commit of the seal": halt_in("seals", 999, signal.SIGSTOP),
    }[where]
    pid = close_in_child(book, day, install)
    wait_for(pid, stopped=True)
    try:
        # The heir waits for the lease to run out, and for Postgres to end the paused transaction where it holds rows.
        deadline = time.monotonic() + 15
        while True:
            try:
                results = book.close(day)
                break
            except (LeaseHeldError, StepTimeoutError, StaleEpochError):
                assert time.monotonic() < deadline
        assert results[-1].status == "succeeded"
        before, numbers = book.state_digest(), effects(book, day)
        rows = book.value("SELECT string_agg(r::text, '|' ORDER BY step_name) FROM close.eod_runs r")
        outbox = book.value("SELECT count(*) FROM events.outbox")
    finally:
        os.kill(pid, signal.SIGCONT)
    # It finds every step done, or what it had begun refused.
    assert wait_for(pid) in ({OK} if where == "before the first step" else {StaleEpochError.exit_code, 1, 2})
    assert (book.state_digest(), effects(book, day)) == (before, numbers)
    assert book.value("SELECT string_agg(r::text, '|' ORDER BY step_name) FROM close.eod_runs r") == rows
    assert book.value("SELECT count(*) FROM events.outbox") == outbox
    assert stats(book, "compline %") == 0


def test_fence_refuses_an_epoch_that_was_taken_over_before_commit(make_book: MakeBook) -> None:
    book = make_book(policy=policy_with(lease_ttl_s=1))
    day = book.days[0]

    def write(connection: object, context: StepContext, day_: object) -> StepOutput:
        with book.admin() as owner:
            owner.execute("UPDATE close.leases SET epoch = epoch + 1, holder = 'thief' WHERE close_date = %s", (day,))
        return StepOutput(1, "0" * 64)

    step = Step("made_up", "made_up", lambda *_: {}, write, completes=True, before_cutoff=True)
    with book.closing(day) as context, pytest.raises(StaleEpochError, match="no longer holds the lease"):
        run_step(step, context)
    assert book.value("SELECT count(*) FROM close.eod_runs") == 0
    assert book.value("SELECT count(*) FROM events.outbox") == 0
