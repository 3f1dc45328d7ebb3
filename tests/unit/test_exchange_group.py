"""Group commit: replies after the fsync, none where the disk refuses, and a cut-off that needs no message."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import date, timedelta
from pathlib import Path

import pytest

from engine.clock import CutOffRule, day_number, to_us
from engine.errors import ComplineError
from engine.exchange import commands as cmd
from engine.exchange import history
from engine.exchange.errors import JournalWriteError
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.service import group
from engine.service.desk import Desk, Reply
from engine.service.group import GroupCommitter
from engine.service.metrics import Metrics

FIRST = date(2026, 3, 2)
RULE = CutOffRule.parse("24:00 UTC")
OPENS = to_us(RULE.instant(FIRST - timedelta(days=1)))
ORDER = {"symbol": "BTC-USDT", "side": "sell", "type": "limit", "price": "0.3", "quantity": "0.001"}


def start(directory: Path) -> Sequencer:
    sequencer = open_exchange(directory, first_day=FIRST, cutoff_rule=RULE)
    for command in (
        cmd.SetAsset(1, "USDT", 6),
        cmd.SetAsset(2, "BTC", 8),
        cmd.SetMarket(1, "BTC-USDT", 2, 1, 10**4, 1),
        cmd.OpenAccount(1, "u-1"),
    ):
        sequencer.submit(command, OPENS - 1)
    sequencer.submit(cmd.Deposit(1, 2, 10**8, "d"), OPENS)
    sequencer.commit()
    return sequencer


def test_what_arrives_together_is_one_group_and_answered_when_it_is_on_the_disk(tmp_path: Path) -> None:
    on_disk: list[tuple[int, int]] = []
    groups: list[int] = []

    async def work(sequencer: Sequencer) -> None:
        committer = GroupCommitter(Desk(sequencer), Metrics(), groups.append, lambda: OPENS + 1)

        async def answer(reply: Reply) -> None:
            with JournalReader(journal_path(tmp_path)) as reader:
                on_disk.append((reply["order"]["sequence"], reader.tail().seq))

        for _ in range(5):
            assert committer.put("orders.submit", json.dumps({"userId": "u-1", "order": ORDER}).encode(), answer)
        committer.close()
        await committer.run()

    with start(tmp_path) as sequencer:
        before = sequencer.engine.last_seq
        asyncio.run(work(sequencer))
    assert on_disk == [(before + number, before + 5) for number in range(1, 6)]
    assert groups[0] == before + 5


def test_group_that_the_disk_refuses_is_not_answered_and_nothing_after_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[Reply] = []

    async def answer(reply: Reply) -> None:
        replies.append(reply)

    async def work(sequencer: Sequencer) -> None:
        committer = GroupCommitter(Desk(sequencer), Metrics(), lambda seq: None, lambda: OPENS + 1)
        message = json.dumps({"userId": "u-1", "order": ORDER}).encode()
        assert committer.put("orders.submit", message, answer)

        def refuse() -> None:
            raise JournalWriteError(tmp_path, OSError(28, "No space left on device"))

        monkeypatch.setattr(sequencer, "commit", refuse)
        with pytest.raises(JournalWriteError):
            await committer.run()
        assert isinstance(committer.failed, ComplineError)
        assert not committer.put("orders.submit", message, answer)

    sequencer = start(tmp_path)
    asyncio.run(work(sequencer))
    assert replies == []


def test_cut_off_is_journalled_when_it_comes_though_nobody_trades(tmp_path: Path) -> None:
    now_us = to_us(RULE.instant(FIRST)) - 150_000

    async def work(sequencer: Sequencer) -> None:
        begun = asyncio.get_running_loop().time()
        committer = GroupCommitter(
            Desk(sequencer),
            Metrics(),
            lambda seq: None,
            lambda: now_us + int((asyncio.get_running_loop().time() - begun) * 1e6),
        )
        running = asyncio.create_task(committer.run())
        await asyncio.sleep(0.05)
        assert sequencer.engine.open_day == day_number(FIRST)
        await asyncio.sleep(0.4)
        committer.close()
        await running

    with start(tmp_path) as sequencer:
        asyncio.run(work(sequencer))
        last = sequencer.engine.last_seq
    cut = history.cut_off_of(tmp_path, FIRST)
    assert (cut.seq, cut.ts_us) == (last, to_us(RULE.instant(FIRST)))


class FakeTime:
    """A clock that goes as far as a commit takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_slow_disk_is_waited_for_in_a_thread_and_a_quick_one_by_the_loop_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = 0.0001, 0.1
    takes = [*[quick] * 6, slow, *[quick] * 6, *[slow] * 8, *[quick] * 30]
    by_loop: list[bool] = []
    clock = FakeTime()

    async def work(sequencer: Sequencer) -> None:
        committer = GroupCommitter(Desk(sequencer), Metrics(), lambda seq: None, lambda: OPENS + 1)
        message = json.dumps({"userId": "u-1", "order": ORDER}).encode()
        commit = sequencer.commit

        def watched() -> None:
            clock.now += takes[len(by_loop)]
            by_loop.append(threading.current_thread() is threading.main_thread())
            commit()

        monkeypatch.setattr(sequencer, "commit", watched)
        monkeypatch.setattr(group, "time", clock)
        running = asyncio.create_task(committer.run())
        for _ in takes:
            done = asyncio.Event()

            async def answer(reply: Reply, done: asyncio.Event = done) -> None:
                done.set()

            assert committer.put("orders.submit", message, answer)
            await done.wait()
        # The group that is left when it closes is empty, and committed like any other.
        takes.append(quick)
        committer.close()
        await running

    with start(tmp_path) as sequencer:
        asyncio.run(work(sequencer))
    assert by_loop[1:14] == [True] * 13, "one slow commit among quick ones changes nothing"
    assert by_loop[19:21] == [False] * 2, "where each is slow, the loop reads on meanwhile"
    assert by_loop[-10:] == [True] * 10, "and the disk is trusted again once it is quick"


def test_followers_are_told_after_the_replies_left(tmp_path: Path) -> None:
    order: list[str] = []

    async def work(sequencer: Sequencer) -> None:
        committer = GroupCommitter(Desk(sequencer), Metrics(), lambda seq: order.append("told"), lambda: OPENS + 1)

        async def answer(reply: Reply) -> None:
            order.append("answered")

        for _ in range(3):
            assert committer.put("orders.submit", json.dumps({"userId": "u-1", "order": ORDER}).encode(), answer)
        committer.close()
        await committer.run()

    with start(tmp_path) as sequencer:
        asyncio.run(work(sequencer))
    assert order[:4] == [*["answered"] * 3, "told"]
