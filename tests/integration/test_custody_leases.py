"""One closer a date where wallets are read and compared: eight at once, and one that wakes after its lease ran out."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

from engine.errors import StaleEpochError, StepTimeoutError
from engine.store.leases import LeaseHeldError
from tests.fixtures.bitgo_server import FakeBitGo
from tests.fixtures.books import MakeBook
from tests.fixtures.closers import OK, close_in_child, effects, halt_in, wait_for
from tests.fixtures.outside import WITH_CUSTODY, with_custody

COUNTED = (
    "SELECT string_agg(format('%s %s %s', gate, verdict, close_date), ',' ORDER BY gate, close_date)"
    " || (SELECT count(*) FROM custody.transfers) || ' ' || (SELECT count(*) FROM recon.breaks) || ' '"
    " || (SELECT count(*) FROM ledger.journals WHERE kind IN ('network_fee', 'custody_transfer')) FROM recon.verdicts"
)


def test_eight_closers_and_a_paused_leader_of_a_book_with_wallets_have_one_effect(
    make_book: MakeBook, bitgo: FakeBitGo
) -> None:
    made = with_custody(make_book, bitgo, replace(WITH_CUSTODY, lease_ttl_s=1, step_timeout_s=3))
    book, (first, second) = made.book, made.book.days
    for day in (first, second):
        made.collect(day)
    codes = [wait_for(pid) for pid in [close_in_child(book, first, who=f"closer{n}") for n in range(8)]]
    assert OK in codes
    assert set(codes) <= {OK, LeaseHeldError.exit_code}
    assert effects(book, first) == (1, 1, 0, 1)
    assert book.value("SELECT max(attempt) FROM close.eod_runs") == 1
    assert book.value("SELECT count(*) FROM recon.verdicts WHERE gate = 'ledger_vs_custody' AND verdict = 'pass'") == 1
    # The leader of the second date has judged the wallets and stands still before its commit, longer than its lease.
    pid = close_in_child(book, second, halt_in("ledger_vs_custody", 999, signal.SIGSTOP))
    wait_for(pid, stopped=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                results = book.close(second)
                break
            except (LeaseHeldError, StepTimeoutError, StaleEpochError):
                assert time.monotonic() < deadline
        assert results[-1].status == "succeeded"
        before = book.state_digest(), effects(book, second), book.value(COUNTED)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert wait_for(pid) in {StaleEpochError.exit_code, 1, 2}
    assert (book.state_digest(), effects(book, second), book.value(COUNTED)) == before
    assert effects(book, second)[0] == 1
