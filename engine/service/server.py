"""The exchange as a service: one process that owns the journal and answers on NATS.

What belongs here: its parts put together, its start and its end.
What does not: each part (see `group`, `desk`, `follower_process`, `health`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engine.clock import CloseDate, CutOffs, iso_us
from engine.errors import ComplineError, UncheckedError
from engine.events.broker import Broker, Respond
from engine.exchange.errors import JournalBehindError
from engine.exchange.journal import journal_path
from engine.exchange.live import mark_live
from engine.exchange.sequencer import open_exchange
from engine.service.cutoffs import keep_cutoffs
from engine.service.desk import Desk, Reply, refusal
from engine.service.follower_process import FollowerProcess
from engine.service.group import QUEUE_LIMIT, GroupCommitter
from engine.service.health import HOST, serve_health
from engine.service.markers import MarkerTimer, marker_gauges
from engine.service.messages import COMMAND_REQUEST, MARKER_DUE, MAX_MESSAGE_BYTES, RefusedMessageError
from engine.service.metrics import Metrics
from engine.service.snapshot_keeper import SnapshotKeeper
from engine.service.telling import begin_cursor, read_cursor

REQUESTS = (
    "orders.submit",
    "orders.cancel",
    "orders.cancel_all",
    "orders.amend",
    "orders.reduce",
    "staking.stake",
    "staking.unstake",
    "ledger.balances.get",
)
CUSTODY = (
    "custody.deposit.confirmed",
    "custody.deposit.reversed",
    "custody.withdrawal.requested",
    "custody.withdrawal.confirmed",
    "custody.withdrawal.failed",
)
WHO = "exchange.who"
Talk = Callable[[str], None]
_JSON = json.JSONEncoder(separators=(",", ":"))
_LONG = 1_000
"""Entries of a list that is left in a reply which would be too long."""


@dataclass(frozen=True)
class ServiceConfig:
    """What one service serves.

    Attributes:
        book: its name.
        first_day: of the book.
        cutoff_rule: when a day ends, until the database says otherwise.
        journal_dir: of the exchange.
        database_url: as the application; secret.
        nats_url: with credentials; secret.
        health_port: on 127.0.0.1; 0 lets the system choose.
        markers: seconds between two markers and seconds that one may wait, until the database says otherwise.
        marker_every_s: seconds between two markers, whatever the database says; None follows it.
        settled_seq: how far the ledger is settled; 0 where that is not known.
    """

    book: str
    first_day: CloseDate
    cutoff_rule: CutOffs
    journal_dir: Path
    database_url: str = field(repr=False)
    nats_url: str = field(repr=False)
    health_port: int
    markers: tuple[int, int] = (300, 60)
    marker_every_s: int | None = None
    settled_seq: int = 0


class ExchangeService:
    """One exchange, served until a signal.

    Args:
        config: what is served.
        talk: called with a line for a person.
    """

    def __init__(self, config: ServiceConfig, talk: Talk) -> None:
        self._config = config
        self._talk = talk
        self._metrics = Metrics()
        self._broker = Broker(config.nats_url)
        self._serving = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then commit, answer, tell what can be told and let go.

        Raises:
            JournalLockedError: another process writes this exchange's journal.
            JournalCorruptError: the journal does not load.
            JournalBehindError: it ends before what the ledger has settled.
            JournalWriteError: the disk refused; start again once it takes writes.
            UncheckedError: the health port is taken, or another exchange serves on this NATS server.
        """
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        config = self._config
        self._snapshots = SnapshotKeeper(config.journal_dir)
        sequencer = open_exchange(
            config.journal_dir,
            first_day=config.first_day,
            cutoff_rule=config.cutoff_rule,
            keep=self._snapshots.keep,
        )
        # The state lives as long as the service: a collection that walks it would be a pause of every order.
        gc.collect()
        gc.freeze()
        committed = sequencer.engine.last_seq
        if committed < config.settled_seq:
            sequencer.close()
            raise JournalBehindError(journal_path(config.journal_dir), config.settled_seq)
        if read_cursor(config.journal_dir) is None:
            # What was journalled before anyone served it (a demo, a tape) is no news.
            begin_cursor(config.journal_dir, committed)
        mark_live(config.journal_dir)
        self._sequencer = sequencer
        self._desk = Desk(sequencer)
        self._followers = FollowerProcess(
            {
                "book": config.book,
                "journal_dir": str(config.journal_dir),
                "database_url": config.database_url,
                "nats_url": config.nats_url,
            },
            committed,
            self._heard,
        )
        self._markers = MarkerTimer(config.marker_every_s, config.markers, self._mark)
        self._followers.deadline(self._markers.deadline_s)
        self._committer = GroupCommitter(self._desk, self._metrics, self._committed)
        try:
            health = await self._serve_health()
            try:
                await self._run(stopping)
            finally:
                health.close()
        finally:
            with contextlib.suppress(UncheckedError):
                sequencer.close()

    async def _run(self, stopping: asyncio.Event) -> None:
        committing = asyncio.create_task(self._committer.run())
        following = asyncio.create_task(self._followers.run())
        answering = asyncio.create_task(self._answer_requests())
        marking = asyncio.create_task(self._markers.run())
        keeping = asyncio.create_task(self._snapshots.run())
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait([committing, stopped, answering, following], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._talk("stopping: what was taken is committed and answered")
            self._serving = False
            self._committer.close()
            await asyncio.wait([committing])
            answering.cancel()
            marking.cancel()
            keeping.cancel()
            await asyncio.wait([keeping])
            await self._broker.flush()
            await self._followers.close(following)
            await self._broker.close()
            stopped.cancel()
        for task in (committing, answering, following):
            if _failed(task):
                task.result()

    async def _answer_requests(self) -> None:
        """Connect, however long it takes, and take messages."""
        await self._broker.connect()
        await self._broker.refuse_second(WHO)
        await self._broker.on_request(WHO, self._who)
        for subject in REQUESTS:
            await self._broker.on_request(subject, self._arrived)
        self._serving = True
        self._talk(f"book {self._config.book}: serving {', '.join(REQUESTS)}")
        await self._broker.consume(f"exchange-{self._config.book}", list(CUSTODY), self._custody_arrived)

    async def _who(self, subject: str, data: bytes, respond: Respond) -> None:
        await respond(f"book {self._config.book}".encode())

    async def _arrived(self, subject: str, data: bytes, respond: Respond) -> None:
        async def answer(reply: Reply) -> None:
            told = _JSON.encode(reply).encode()
            if len(told) > self._broker.most_bytes:
                told = _JSON.encode(shortened(reply)).encode()
            await respond(told)

        # What is too long is refused by its length: the rest of it needs no room in the queue.
        if not self._committer.put(subject, data[: MAX_MESSAGE_BYTES + 1], answer):
            await answer(refusal(RefusedMessageError("unavailable", "the exchange takes no more messages now")))

    async def _custody_arrived(self, subject: str, data: bytes, respond: Respond) -> None:
        async def answer(reply: Reply) -> None:
            # Journalled or refused for good: the server may forget it.
            await respond(b"+")

        if not self._committer.put(subject, data[: MAX_MESSAGE_BYTES + 1], answer):
            await respond(b"")

    def _committed(self, seq: int) -> None:
        self._followers.committed(seq)
        for event in self._desk.take_marked():
            self._followers.marked(event.engine_seq, event.sequenced_us)

    def _mark(self) -> None:
        """Have a marker journalled, in its turn; while one waits for its result, another would say no more."""
        if self._followers.status.get("markers_waiting"):
            return

        async def unheard(reply: Reply) -> None:
            return

        self._committer.put(MARKER_DUE, b"", unheard)

    def _heard(self, said: dict[str, Any]) -> None:
        """Take what the database asks for: commands to journal, when days end, how often there is a marker."""
        if "cutoffs" in said:
            with contextlib.suppress(OSError, ComplineError):
                self._sequencer.follow(keep_cutoffs(self._config.journal_dir, said["cutoffs"]))
            self._markers.follow(*said["markers"])
            self._followers.deadline(self._markers.deadline_s)
            return
        # There are few, and left out of a full queue one would be overtaken by a later one.
        for key, kind, reference, payload in said["requests"]:
            self._committer.put(
                COMMAND_REQUEST,
                json.dumps([key, kind, reference, payload, said["settled"]]).encode(),
                partial(self._answer_request, key),
                limit=2 * QUEUE_LIMIT,
            )

    async def _answer_request(self, key: str, reply: Reply) -> None:
        """What was journalled is answered by its settlement; what can be no command must be said."""
        error = reply.get("error", {})
        if error and "sequence" not in error:
            self._followers.refused(key, f"{error['reason']}: {error['message']}")

    async def _serve_health(self) -> asyncio.Server:
        try:
            server = await serve_health(self._config.health_port, self._health, self._scrape)
        except OSError as error:
            raise UncheckedError(
                f"port {self._config.health_port} cannot be listened on: {error.strerror}",
                next_step="choose another with --health-port",
            ) from None
        self._talk(f"health and metrics on http://{HOST}:{server.sockets[0].getsockname()[1]}")
        return server

    def _health(self) -> tuple[bool, dict[str, Any]]:
        """Orders are what it is for: a database or broker that is away shows, and does not make it unwell."""
        status, failed = self._followers.status, self._committer.failed
        well = failed is None and status.get("settlement") != "refused"
        good = well and self._broker.connected and status.get("settlement") == "ok" and bool(status.get("telling"))
        return well, {
            "status": "ok" if good else "degraded" if well else "failed",
            "book": self._config.book,
            "serving": self._serving and self._broker.connected,
            "committed_seq": self._committer.committed_seq,
            "open_day": str(self._sequencer.open_day),
            "ends_at": iso_us(self._sequencer.cutoff_rule.instant(self._sequencer.open_day)),
            "error": str(failed) if failed is not None else None,
            "follower_restarts": self._followers.restarts,
            "snapshots_waiting": self._snapshots.waiting,
            **status,
        }

    def _scrape(self) -> str:
        status = self._followers.status
        self._metrics.gauges.update(
            {
                "committed_sequence": self._committer.committed_seq,
                "settled_sequence": int(status.get("settled_seq", 0)),
                "told_sequence": int(status.get("told_seq", 0)),
                "broker_connected": int(self._broker.connected),
                "settlement_ok": int(status.get("settlement") == "ok"),
                "follower_restarts": self._followers.restarts,
                "snapshots_waiting": self._snapshots.waiting,
                "snapshots_failed": self._snapshots.failed,
                "command_requests_waiting": int(status.get("requests_waiting", 0)),
                **marker_gauges(status),
            }
        )
        return self._metrics.text()


def shortened(reply: Reply) -> Reply:
    """A reply with the first of each long list; `omitted` says how many more there are, which only the events tell.

    An order that swept a hundred thousand others made a reply that no server takes: its user would have heard nothing.
    """
    short: Reply = {}
    for name, value in reply.items():
        if isinstance(value, dict):
            short[name] = shortened(value)
        elif isinstance(value, list) and len(value) > _LONG:
            short |= {name: value[:_LONG], "omitted": len(value) - _LONG}
        else:
            short[name] = value
    return short


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
