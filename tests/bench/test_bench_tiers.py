"""What a batch of tiers costs the exchange: rows journalled, and the command that puts them in force."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.clock import from_day_number
from engine.exchange import commands as cmd
from engine.exchange.events import TiersSet
from engine.exchange.requests import CommandRequest, commands_of, staging_of
from engine.exchange.sequencer import open_exchange
from tests.property.exchange_commands import FIRST_DAY, OPENS_US, RULE, batch_of

pytestmark = pytest.mark.bench

TIERS = 5


@pytest.mark.parametrize("users", [100_000, 1_000_000])
def test_figures(tmp_path: Path, users: int, capsys: pytest.CaptureFixture[str]) -> None:
    with open_exchange(tmp_path, first_day=from_day_number(FIRST_DAY), cutoff_rule=RULE) as sequencer:
        for user in range(1, users + 1):
            sequencer.submit(cmd.OpenAccount(user, f"u-{user}"), OPENS_US - 1)
        sequencer.commit()
        request = CommandRequest("k", "set_tiers", "k", {"batch": 1})
        moves = [(tier, range(1 + tier, users + 1, TIERS)) for tier in range(TIERS)]
        rows: list[cmd.TierRow] = []
        wall, cpu = time.perf_counter(), time.process_time()
        for part in staging_of(request, [(tier, 100, 1000) for tier in range(TIERS)], moves):
            for row in commands_of(part, sequencer.engine.registry):
                assert isinstance(row, cmd.TierRow)
                rows.append(row)
                sequencer.submit(row, OPENS_US)
        sequencer.commit()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        end = batch_of(1, rows, "k")
        before = time.process_time()
        assert isinstance(sequencer.submit(end, OPENS_US)[0], TiersSet)
        applied = time.process_time() - before
        single = min(users, 100_000)
        before = time.process_time()
        for user in range(1, single + 1):
            sequencer.submit(cmd.SetAccountTier(user, 1, f"tier:2026-03-02:{user}:1"), OPENS_US)
        sequencer.commit()
        floor = (time.process_time() - before) / single
    with capsys.disabled():
        print(
            f"\n{users:,} users: {len(rows):,} rows journalled in {wall:.2f} s ({len(rows) / wall:,.0f} rows/s; CPU"
            f" {cpu / users * 1e6:.1f} us a user, one command a user {floor * 1e6:.1f}),"
            f" applied in {applied * 1e3:.0f} ms"
        )
