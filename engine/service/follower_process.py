"""The exchange's side of its followers: started, told what was committed, started again if they fail.

What belongs here: that child process. What does not: what it does (see `followers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from engine.service.database_watch import LINE_BYTES

_RESTART_S = 1.0
_MAX_UNREAD_BYTES = 65_536
_END_S = 15.0


class FollowerProcess:
    """Keeps the followers of one exchange running.

    Args:
        config: what they need to know, with secrets; it goes through a pipe.
        committed: the last sequence on the disk.
        heard: called with what the database asks for.

    Attributes:
        status: what they said last.
        restarts: how often they had to be started again.
    """

    def __init__(self, config: dict[str, Any], committed: int, heard: Callable[[dict[str, Any]], None]) -> None:
        self._config = {**config, "started_at": committed}
        self._heard = heard
        self._committed = committed
        self._process: asyncio.subprocess.Process | None = None
        self._closing = False
        self.status: dict[str, Any] = {}
        self.restarts = 0

    def committed(self, seq: int) -> None:
        """Say what is on the disk."""
        if seq <= self._committed:
            return
        self._committed = seq
        pipe = self._process.stdin if self._process is not None else None
        # The next number says all that one left out would have said.
        if pipe is not None and pipe.transport.get_write_buffer_size() < _MAX_UNREAD_BYTES:
            with contextlib.suppress(OSError, RuntimeError):
                pipe.write(b"%d\n" % seq)

    def refused(self, key: str, why: str) -> None:
        """Say that a request of the database can be no command; if nobody hears it, it comes again."""
        self._say({"key": key, "why": why})

    def marked(self, seq: int, at_us: int) -> None:
        """Say that a marker is on the disk; one that starts later finds it in the journal."""
        self._say({"marker": seq, "at_us": at_us})

    def deadline(self, seconds: int) -> None:
        """Say how long a marker may wait."""
        self._config["marker_deadline_s"] = seconds
        self._say({"deadline_s": seconds})

    def _say(self, words: dict[str, Any]) -> None:
        pipe = self._process.stdin if self._process is not None else None
        if pipe is not None and not self._closing:
            with contextlib.suppress(OSError, RuntimeError):
                pipe.write(json.dumps(words).encode() + b"\n")

    async def run(self) -> None:
        """Keep them running until `close`."""
        while not self._closing:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "engine.service.followers",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
            )
            pipe, said = self._process.stdin, self._process.stdout
            assert pipe is not None
            assert said is not None
            pipe.write(json.dumps({**self._config, "committed": self._committed}).encode() + b"\n")
            while line := await said.readline():
                try:
                    words = json.loads(line)
                except ValueError:
                    continue
                if "settled_seq" in words:
                    self.status = words
                else:
                    self._heard(words)
            await self._process.wait()
            self._process = None
            if not self._closing:
                self.restarts += 1
                self.status = {}
                await asyncio.sleep(_RESTART_S)

    async def close(self, running: asyncio.Task[None]) -> None:
        """Say that nothing more comes, and wait until they have finished what they can."""
        self._closing = True
        if self._process is None:
            running.cancel()
        elif self._process.stdin is not None:
            self._process.stdin.write(b"%d\n" % self._committed)
            self._process.stdin.close()
        try:
            await asyncio.wait_for(running, _END_S)
        except (TimeoutError, asyncio.CancelledError):
            if self._process is not None:
                self._process.kill()
