"""The demo exchange: the same seed gives the same journal, whenever it is killed, and it shows every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from engine.clock import CutOffRule, day_number, to_us
from engine.errors import UsageError
from engine.exchange import history
from engine.exchange.errors import JournalMismatchError
from engine.exchange.events import CutOff, Event, Rejected, Trade, Transfer, TransferKind
from engine.exchange.journal import journal_path
from engine.sim.demo import load_demo
from engine.sim.demo_world import DemoConfig

SMALL = DemoConfig(users=40, makers=3, steps_per_day=300, days=2)


def events_of(directory: Path) -> list[Event]:
    return [event for events in history.events_from(directory, 0) for event in events]


@pytest.fixture(scope="module")
def default_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    load_demo(directory)
    return directory


def test_demo_shows_every_case_on_every_day(default_demo: Path) -> None:
    config = DemoConfig()
    events = events_of(default_demo)
    trades = Counter(e.close_day for e in events if isinstance(e, Trade))
    days = [day_number(config.first_day) + n for n in range(3)]
    assert sorted(trades) == days
    assert all(3000 <= count <= 5500 for count in trades.values()), trades
    cuts = [e.close_day for e in events if isinstance(e, CutOff)]
    assert cuts == [days[0] - 1, *days]
    assert isinstance(events[-1], CutOff)
    assert len({e.reason for e in events if isinstance(e, Rejected)}) >= 7
    kinds = Counter(e.kind for e in events if isinstance(e, Transfer))
    for kind in (
        TransferKind.DEPOSIT,
        TransferKind.WITHDRAWAL_CONFIRMED,
        TransferKind.WITHDRAWAL_FAILED,
        TransferKind.STAKE,
        TransferKind.UNSTAKE,
    ):
        assert kinds[kind] > 5
    for number in range(3):
        state = history.state_at_cutoff(default_demo, config.first_day + timedelta(days=number))
        state.check_conservation()
        state.check_locks()
        assert state.state.withdrawals, "some withdrawals are in transit at every cut-off"
        assert sum(1 for _ in state.resting()) > 20
        assert {a.decimals for a in state.registry.assets.values()} >= {18}
        assert len(state.registry.assets) == 7
        assert {"u-0001", "u-0500", "mm-01", "mm-10"} <= set(state.registry.account_by_name)
        for asset in state.registry.assets:
            assert state.external_flows(asset) > 0


def test_demo_has_a_trade_at_the_cutoff_and_a_late_one_both_in_the_next_day(default_demo: Path) -> None:
    config = DemoConfig()
    instant = to_us(config.cutoff_rule.instant(config.first_day))
    trades = [e for e in events_of(default_demo) if isinstance(e, Trade)]
    at = [t for t in trades if t.sequenced_us == instant]
    late = [t for t in trades if t.effective_us < instant <= t.sequenced_us]
    assert at
    assert late
    assert {t.close_day for t in at + late} == {day_number(config.first_day) + 1}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        load_demo(tmp_path / name, SMALL)
    whole = journal_path(tmp_path / "a").read_bytes()
    assert journal_path(tmp_path / "b").read_bytes() == whole
    load_demo(tmp_path / "c", DemoConfig(seed=2, users=40, makers=3, steps_per_day=300, days=2))
    assert journal_path(tmp_path / "c").read_bytes() != whole


def test_loaded_demo_is_a_no_op_that_says_so_with_and_without_its_marker(tmp_path: Path) -> None:
    first = load_demo(tmp_path, SMALL)
    whole = journal_path(tmp_path).read_bytes()
    assert not first.already_loaded
    for marker in (True, False):
        if not marker:
            (tmp_path / "demo.json").unlink()
        again = load_demo(tmp_path, SMALL)
        assert again.already_loaded
        assert (again.commands, again.trades, again.resumed_after) == (first.commands, first.trades, first.commands)
        assert journal_path(tmp_path).read_bytes() == whole


def test_demo_cut_anywhere_and_run_again_ends_with_the_same_journal(tmp_path: Path) -> None:
    load_demo(tmp_path / "whole", SMALL)
    whole = journal_path(tmp_path / "whole").read_bytes()
    states = [path.name for path in sorted((tmp_path / "whole" / "snapshots").iterdir())]
    for size in range(160, len(whole), len(whole) // 9 + 77):
        directory = tmp_path / f"cut-{size}"
        directory.mkdir()
        journal_path(directory).write_bytes(whole[:size])
        summary = load_demo(directory, SMALL)
        assert summary.resumed_after == size // 160 - 1
        assert journal_path(directory).read_bytes() == whole
        for name in states:
            assert (directory / "snapshots" / name).read_bytes() == (tmp_path / "whole/snapshots" / name).read_bytes()


def test_demo_killed_while_it_loads_ends_with_the_same_journal(tmp_path: Path) -> None:
    load_demo(tmp_path / "whole")
    program = (
        "import sys; from pathlib import Path; from engine.sim.demo import load_demo; load_demo(Path(sys.argv[1]))"
    )
    root = Path(__file__).parents[2]
    directory = tmp_path / "killed"
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", program, str(directory)], cwd=root)
        deadline = time.monotonic() + 30
        want = 160 * 5000 * (kill + 1)
        while time.monotonic() < deadline and process.poll() is None:
            if journal_path(directory).exists() and journal_path(directory).stat().st_size > want:
                break
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    load_demo(directory)
    assert journal_path(directory).read_bytes() == journal_path(tmp_path / "whole").read_bytes()


def test_journal_of_another_seed_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    load_demo(tmp_path, SMALL)
    whole = journal_path(tmp_path).read_bytes()
    with pytest.raises(JournalMismatchError, match="is not this demo's"):
        load_demo(tmp_path, DemoConfig(seed=9, users=40, makers=3, steps_per_day=300, days=2))
    with pytest.raises(JournalMismatchError, match="begins on"):
        load_demo(tmp_path, DemoConfig(first_day=date(2026, 3, 3)))
    assert journal_path(tmp_path).read_bytes() == whole


def test_demo_follows_any_cut_off_rule(tmp_path: Path) -> None:
    rule = CutOffRule.parse("16:00 America/New_York")
    # The clocks go forward on 2026-03-08.
    load_demo(
        tmp_path,
        DemoConfig(users=20, makers=2, steps_per_day=60, days=3, first_day=date(2026, 3, 7), cutoff_rule=rule),
    )
    cuts = history.cut_offs(tmp_path)
    assert [(b.ts_us - a.ts_us) // 3_600_000_000 for a, b in pairwise(cuts)] == [24, 23, 24]


def test_too_small_a_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_demo(tmp_path, DemoConfig(users=1))
