"""One closer a date: leases, epochs and the fence, under paused, killed, slow and simultaneous closers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import psycopg
import pytest

from engine import clock
from engine.close.policy import Policy
from engine.errors import ComplineError, StaleEpochError, StepTimeoutError
from engine.sim.demo import load_demo
from engine.sim.demo_world import OUTSIDE
from engine.steps import runner
from engine.steps.context import Step, StepContext, StepOutput
from engine.steps.plan import STEPS, run_all
from engine.steps.runner import run_step
from engine.steps.settling import settle
from engine.store.connect import connect
from engine.store.leases import CloseLease, LeaseHeldError
from pipelines.collect import collect
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book

NAMES = [step.name for step in STEPS]
OK = 0


@pytest.fixture(scope="module")
def clean(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """The book that nothing happened to: what every other must look like in the end."""
    made = with_readings(new_book(settings, SMALL, policy_with(), name="clean"))
    for day in made.days:
        assert made.close(day)[-1].status == "succeeded"
    yield made
    drop_book(made)


def policy_with(**changes: int) -> Policy:
    """With custody and chain, so that their steps have something to be killed at."""
    return Policy(reporting_currency="USDT", mark_max_age_s=86_400, **OUTSIDE, **changes)


def with_readings(book: BookUnderTest) -> BookUnderTest:
    """The same book, its simulated custody and chain collected."""
    for day in book.days:
        collect(book.opened, day)
    return book


def in_child(work: Callable[[], int]) -> int:
    """Run work in a process of its own, ended without any clean-up; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 98
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        signal.setitimer(signal.ITIMER_REAL, 0)
        code = work()
    except ComplineError as error:
        code = error.exit_code
    except BaseException:
        code = 97
    finally:
        os._exit(code)


def wait_for(pid: int, *, stopped: bool = False) -> int:
    """A child's exit code, negative for a signal; with `stopped`, returns once it has stopped itself."""
    _, status = os.waitpid(pid, os.WUNTRACED if stopped else 0)
    if stopped:
        assert os.WIFSTOPPED(status), os.waitstatus_to_exitcode(status)
        return 0
    return os.waitstatus_to_exitcode(status)


def hooked(hook: Callable[[str], None]) -> None:
    """Call a hook before and after every statement that this process sends."""
    for owner, name in ((psycopg.Connection, "execute"), (psycopg.Cursor, "execute"), (psycopg.Cursor, "executemany")):
        real = getattr(owner, name)

        def call(
            self: object, query: object, *args: object, _real: Callable[..., object] = real, **more: object
        ) -> object:
            text = query.decode() if isinstance(query, bytes) else str(query)
            hook(text)
            done = _real(self, query, *args, **more)
            hook(text)
            return done

        setattr(owner, name, call)


def close_in_child(
    book: BookUnderTest, day: date, install: Callable[[], None] = lambda: None, who: str = "child"
) -> int:
    """Close a day in a process of its own; `install` runs in it first."""
    policy = book.opened.policy_on(day)

    def work() -> int:
        install()
        with CloseLease(book.opened.url, day, f"{who}-{os.getpid()}", policy.lease_ttl_s) as lease:
            context = StepContext(
                url=book.opened.url,
                close_date=day,
                run_id=lease.holder,
                epoch=lease.epoch,
                book=book.opened.book,
                policy=policy,
                journal_dir=book.opened.files.journal_dir,
                evidence_dir=book.opened.files.evidence_dir,
                load_keys=lambda: book.keys,
                now=clock.now(),
            )
            return OK if run_all(context)[-1].status == "succeeded" else 1

    return in_child(work)


def stop_at(text: str, nth: int = 1) -> Callable[[], None]:
    """Stops the whole process, renewing thread included, at the nth statement that holds a text."""
    seen = 0

    def hook(query: str) -> None:
        nonlocal seen
        seen += text in query
        if text in query and seen == nth:
            os.kill(os.getpid(), signal.SIGSTOP)

    return lambda: hooked(hook)


def halt_in(step: str, statements: int, how: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Kills or stops the process in one step's transaction: after so many statements, or before it commits."""

    def install() -> None:
        inside, left = False, statements
        real = runner._in_transaction

        def entered(connection: psycopg.Connection, one: Step, *rest: object) -> object:
            nonlocal inside
            inside = one.name == step
            done = real(connection, one, *rest)  # type: ignore[arg-type]
            if inside and left > 0:
                os.kill(os.getpid(), how)
            return done

        def hook(query: str) -> None:
            nonlocal left
            left -= inside
            if inside and not left:
                os.kill(os.getpid(), how)

        runner._in_transaction = entered  # type: ignore[assignment]
        hooked(hook)

    return install


def effects(book: BookUnderTest, day: date) -> tuple[object, ...]:
    """How often things happened that must happen once."""
    with book.admin() as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM close.seals WHERE close_date = %(d)s),"
            " (SELECT count(*) FROM reserves.log_entries),"
            " (SELECT count(*) - count(DISTINCT (reference_type, reference_id)) FROM ledger.journals),"
            " (SELECT count(*) FROM events.outbox"
            " WHERE payload ->> 'close_date' = %(d)s::text AND subject LIKE 'eod.seal.%%')",
            {"d": day},
        ).fetchone()
    assert row is not None
    return row


def same(book: BookUnderTest, clean: BookUnderTest) -> None:
    """Close what is left; the book must be the clean one, byte for byte of its state."""
    for day in book.days:
        assert book.close(day)[-1].status == "succeeded"
    assert book.state_digest() == clean.state_digest()


def like(clean: BookUnderTest, make_book: MakeBook, **policy: int) -> BookUnderTest:
    made = with_readings(make_book(policy=policy_with(**policy)))
    made.keys = clean.keys
    return made


def stats(book: BookUnderTest, name: str) -> int:
    count = book.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s", name
    )
    assert isinstance(count, int)
    return count


# Many closers.


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


# A killed closer.


def test_lease_of_a_killed_closer_is_taken_at_once(clean: BookUnderTest, make_book: MakeBook) -> None:
    book = like(clean, make_book)
    day = book.days[0]
    pid = close_in_child(book, day, stop_at("close.replace_mark_prices"))
    wait_for(pid, stopped=True)
    with pytest.raises(LeaseHeldError), CloseLease(book.opened.url, day, "early", 30, wait_s=0):
        pass
    os.kill(pid, signal.SIGKILL)
    assert wait_for(pid) == -signal.SIGKILL
    started = time.monotonic()
    assert book.close(day)[-1].status == "succeeded"
    assert time.monotonic() - started < 5 < policy_with().lease_ttl_s
    same(book, clean)


def statements_of(book: BookUnderTest, day: date, where: Path) -> int:
    """How many kill points a close of a day has."""

    def count(query: str) -> None:
        with where.open("a") as out:
            out.write(".")

    assert wait_for(close_in_child(book, day, lambda: hooked(count))) == OK
    return where.stat().st_size


def kill_at(point: int) -> Callable[[], None]:
    """Kills the process at a statement, before or after it, counted over both."""
    passed = 0

    def hook(query: str) -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: hooked(hook)


def test_close_killed_in_the_middle_of_every_step_ends_as_if_nothing_had_happened(
    clean: BookUnderTest, make_book: MakeBook
) -> None:
    book, chance = like(clean, make_book), random.Random(7)
    for day in book.days:
        for step in NAMES:
            pid = close_in_child(book, day, halt_in(step, chance.randint(1, 12)), who=step)
            assert wait_for(pid) == -signal.SIGKILL, step
            done = book.value("SELECT count(*) FROM close.eod_runs WHERE close_date = %s AND step_name = %s", day, step)
            assert done == 0, f"{step} was killed before its commit"
        if day == book.days[0]:
            assert book.close(day)[-1].status == "succeeded"
    same(book, clean)
    assert all(effects(book, day) == (1, 2, 0, 1) for day in book.days)


def test_settlement_killed_anywhere_ends_as_if_nothing_had_happened(
    clean: BookUnderTest, make_book: MakeBook, tmp_path: Path
) -> None:
    book = make_book(None, policy_with())
    book.keys = clean.keys
    load_demo(book.opened.files.journal_dir, SMALL)
    with_readings(book)

    def work(point: int) -> Callable[[], int]:
        def run() -> int:
            kill_at(point)()
            with closing(connect(book.opened.url, autocommit=True)) as connection:
                settle(connection, book.opened.files.journal_dir)
            return OK

        return run

    killed = 0
    for point in (3, 5, 7, 9, 11, 13, 15, 17, 19, 21):
        killed += wait_for(in_child(work(point))) == -signal.SIGKILL
        if killed < 3:
            assert book.value("SELECT count(*) FROM ledger.journals") == 0
    assert killed >= 5
    with book.app() as connection:
        settle(connection, book.opened.files.journal_dir)
    same(book, clean)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_close_killed_at_every_statement_ends_as_if_nothing_had_happened(
    settings: Settings, servers: Servers, clean: BookUnderTest, tmp_path: Path
) -> None:
    def fresh(number: int) -> BookUnderTest:
        made = with_readings(new_book(settings, SMALL, policy_with(), name=f"kill{number}x"))
        made.keys = clean.keys
        return made

    probe = fresh(0)
    points = statements_of(probe, probe.days[0], tmp_path / "points")
    drop_book(probe)
    assert points > 100
    for point in range(1, points + 1):
        book = fresh(point)
        try:
            with contextlib.suppress(ComplineError):
                assert wait_for(close_in_child(book, book.days[0], kill_at(point))) == -signal.SIGKILL
            same(book, clean)
        finally:
            drop_book(book)


# A slow step.


@pytest.mark.parametrize("where", ["query", "computation"])
def test_step_past_its_limit_leaves_no_backend_and_is_recorded_as_unknown(make_book: MakeBook, where: str) -> None:
    book = with_readings(make_book(policy=policy_with(step_timeout_s=1)))
    day = book.days[0]

    def write(connection: psycopg.Connection, context: StepContext, day_: object) -> StepOutput:
        connection.execute("SELECT close.open_day(%s)", (day,))
        if where == "query":
            connection.execute("SELECT pg_sleep(30)")
        else:
            while True:
                sum(range(10_000))
        return StepOutput(1, "0" * 64)

    step = Step("mark_prices", "cutoff", lambda *_: {}, write, before_cutoff=True)  # type: ignore[arg-type]
    started = time.monotonic()
    with book.closing(day) as context, pytest.raises(StepTimeoutError):
        run_step(step, context)
    assert time.monotonic() - started < 5
    time.sleep(0.2)
    assert stats(book, "compline mark_prices") == 0
    assert book.value("SELECT status FROM close.eod_runs WHERE step_name = 'mark_prices'") == "unknown"
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.cutoff.failed'") == 1
    # How long the others take is the machine's.
    assert book.close(day, policy=policy_with())[-1].status == "succeeded"


def test_hung_prepare_is_ended_by_the_alarm_too(make_book: MakeBook) -> None:
    book = with_readings(make_book(policy=policy_with(step_timeout_s=1)))
    day = book.days[0]

    def prepare(connection: psycopg.Connection, context: StepContext) -> None:
        connection.execute("SELECT pg_sleep(30)")

    step = Step("cutoff", "cutoff", lambda *_: {}, lambda *_: StepOutput(0, ""), prepare=prepare)  # type: ignore[arg-type]
    started = time.monotonic()
    with book.closing(day) as context, pytest.raises(StepTimeoutError):
        run_step(step, context)
    assert time.monotonic() - started < 6
    time.sleep(0.2)
    assert stats(book, "compline cutoff") == 0
