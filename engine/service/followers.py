"""The process beside the exchange: it settles and tells what was committed, so that neither delays an order.

What belongs here: that process's life: what it is told on stdin, what it says on stdout, how it ends.
What does not: the two loops (see `settler`, `telling`), and starting it (see `follower_process`).

Its first line of stdin is a JSON object (addresses with passwords never stand on a command line), every further one
the last committed sequence, or in JSON a marker, how long one may wait, or a request of the database that can be no
command. The end of stdin is the end of the exchange, however that came: it finishes what it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.events.broker import Broker
from engine.events.ordered_publisher import OrderedPublisher
from engine.service import event_loop
from engine.service.comparing import Comparer
from engine.service.database_watch import DatabaseWatch
from engine.service.settler import SettlementLoop
from engine.service.telling import TellingLoop

LOCK_NAME = "followers.lock"
_STATUS_EVERY_S = 0.1
_FINISH_S = 5.0


@dataclass
class Committed:
    """The last sequence that may be read."""

    seq: int = 0


async def follow(config: dict[str, Any], lines: asyncio.StreamReader) -> None:
    """Settle and tell until the lines end, then finish what can be finished within `_FINISH_S`."""
    directory = Path(config["journal_dir"])
    committed = Committed(int(config["committed"]))
    with _alone(directory) as taken:
        while not taken():
            # The one of a service that was killed is still finishing.
            await asyncio.sleep(0.05)
        broker = Broker(config["nats_url"])
        publisher = OrderedPublisher(config["nats_url"], config["book"])
        comparer = Comparer(config["database_url"], directory, config["book"], lambda: committed.seq)
        comparer.deadline_s = int(config["marker_deadline_s"])
        settlement = SettlementLoop(config["database_url"], directory, lambda: committed.seq, comparer.compare)
        telling = TellingLoop(directory, lambda: committed.seq, publisher, broker)
        watch = DatabaseWatch(config["database_url"], lambda: settlement.settled_seq, int(config["started_at"]), _write)

        async def tell() -> None:
            await broker.connect()
            await telling.run()

        def say() -> str:
            return _status(settlement, telling, broker, watch, comparer)

        tasks = [asyncio.create_task(settlement.run()), asyncio.create_task(tell())]
        beside = [asyncio.create_task(watch.run()), asyncio.create_task(comparer.run())]
        status = asyncio.create_task(_report(say))
        try:
            await _until_end(lines, committed, telling, watch, comparer, [*tasks, *beside])
            await _finish(settlement, telling, tasks)
        finally:
            for task in (*tasks, *beside, status):
                task.cancel()
            await asyncio.gather(*tasks, *beside, status, return_exceptions=True)
            telling.close()
            settlement.close()
            watch.close()
            comparer.close()
            _write(say())
            await publisher.close()
            await broker.close()


async def _until_end(
    lines: asyncio.StreamReader,
    committed: Committed,
    telling: TellingLoop,
    watch: DatabaseWatch,
    comparer: Comparer,
    tasks: list[asyncio.Task[None]],
) -> None:
    """Take over committed sequences, markers and refused requests; end with the lines, or with the error of a loop."""
    while True:
        reading = asyncio.create_task(lines.readline())
        await asyncio.wait([reading, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                reading.cancel()
                task.result()
        line = await reading
        if not line:
            return
        if line.startswith(b"{"):
            said = json.loads(line)
            if "marker" in said:
                comparer.expect(said["marker"], said["at_us"])
            elif "deadline_s" in said:
                comparer.deadline_s = said["deadline_s"]
            else:
                watch.refused(**said)
            continue
        committed.seq = int(line)
        telling.wake()


async def _finish(settlement: SettlementLoop, telling: TellingLoop, tasks: list[asyncio.Task[None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FINISH_S):
            while telling.behind or (settlement.behind and settlement.state == "ok"):
                if any(task.done() for task in tasks):
                    return
                await asyncio.sleep(0.01)


async def _report(say: Callable[[], str]) -> None:
    last = ""
    while True:
        if (now := say()) != last:
            last = now
            _write(now)
        await asyncio.sleep(_STATUS_EVERY_S)


def _status(
    settlement: SettlementLoop, telling: TellingLoop, broker: Broker, watch: DatabaseWatch, comparer: Comparer
) -> str:
    return json.dumps(
        {
            "settled_seq": settlement.settled_seq,
            "settlement": settlement.state,
            "settlement_reason": settlement.reason,
            "told_seq": telling.told_seq,
            "telling": telling.ready and broker.connected,
            "requests_waiting": watch.waiting,
            "marker": comparer.last,
            "markers_waiting": comparer.waiting,
            "markers_overdue": comparer.overdue,
        }
    )


def _write(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


@contextlib.contextmanager
def _alone(directory: Path) -> Any:
    """A function that tries to become the only follower of the exchange."""
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def taken() -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        yield taken
    finally:
        os.close(fd)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await follow(json.loads(await lines.readline()), lines)


if __name__ == "__main__":
    # A signal to the whole group (Ctrl-C) is for the exchange: this one ends after it, by the end of its stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    event_loop.run(_main())
