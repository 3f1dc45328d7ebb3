"""AdminService: RunEOD over gRPC, equal in effect to `compline close run`.

What belongs here: who may ask, what is refused before anything runs, and the stream of how steps end.
What does not: closing a date: that is the command line's own process, so that its limits and signals are the same.
"""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from engine import clock
from engine.clock import iso_us, parse_close_date
from engine.errors import ComplineError, InputError, UsageError
from engine.store import days, runs
from engine.store.connect import connect, typed_errors
from pipelines.admin.stubs import messages_and_services
from pipelines.books import OpenBook
from pipelines.local.files import secret

TOKEN_SECRET = "admin_token"
POLL_S = 0.2
MAX_REQUEST_BYTES = 64 * 1024


def token_of(opened: OpenBook) -> str:
    """The token that a caller shows: COMPLINE_ADMIN_TOKEN, else a file of the home, made at first use."""
    given = opened.settings.admin_token
    return given.get_secret_value() if given else secret(opened.settings.home, TOKEN_SECRET)


@dataclass(frozen=True)
class Asked:
    """One request that may run.

    Attributes:
        preview: only say what would be done: the predecessor is not reconciled.
    """

    day: date
    force: bool
    reason: str
    preview: bool


class AdminService:
    """The service of one book."""

    def __init__(self, opened: OpenBook) -> None:
        self._opened = opened
        self._token = token_of(opened)
        self._messages, _ = messages_and_services()

    def RunEOD(self, request: Any, context: Any) -> Iterator[Any]:
        """Run the close of one date and stream how its steps end."""
        import grpc

        shown = dict(context.invocation_metadata()).get("authorization", "")
        if not hmac.compare_digest(str(shown).encode(), f"Bearer {self._token}".encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authorization: Bearer <token> is missing or wrong")
        try:
            asked = self._check(request)
        except ComplineError as error:
            wrong = isinstance(error, UsageError | InputError)
            code = grpc.StatusCode.INVALID_ARGUMENT if wrong else grpc.StatusCode.UNAVAILABLE
            context.abort(code, str(error))
        yield from self._run(asked)

    def _check(self, request: Any) -> Asked:
        """Refuse what cannot run.

        Raises:
            UsageError: no date, a future one, one before the first day, or force without a reason.
        """
        day = parse_close_date(request.date)
        book = self._opened.book
        if day < book.first_day:
            raise UsageError(f"{day} lies before the first day of book {book.name}, {book.first_day}")
        instant = self._opened.policy_on(day).cutoff_rule.instant(day)
        if instant > clock.now():
            raise UsageError(f"{day} ends at {instant:%Y-%m-%d %H:%M} UTC, which has not come")
        if request.force and not request.reason.strip():
            raise UsageError("force needs a reason", next_step="say why: it is kept with the run")
        with closing(connect(self._opened.url)) as connection, typed_errors():
            before = days.read(connection, day - timedelta(days=1))
        ready = day == book.first_day or (before is not None and before.state in ("reconciled", "sealed"))
        return Asked(day, bool(request.force), request.reason.strip(), bool(request.force) and not ready)

    def _run(self, asked: Asked) -> Iterator[Any]:
        started = clock.now()
        if asked.force:
            self._remember(asked, started)
        arguments = ["close", "run", str(asked.day), "--book", self._opened.book.name, "--json"]
        arguments += ["--dry-run"] if asked.preview else ["--recapture"] if asked.force else []
        # Its own process, which ends what it began when the caller hangs up: a close is not undone by a closed window.
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli.app", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(),
        )
        told: set[tuple[str, int, int]] = set()
        while child.poll() is None:
            yield from self._ended_steps(asked.day, started, told)
            time.sleep(POLL_S)
        out, talk = child.communicate()
        yield from self._ended_steps(asked.day, started, told)
        yield self._last(asked, child.returncode, out, talk)

    def _environment(self) -> dict[str, str]:
        import os

        return {**os.environ, "COMPLINE_HOME": str(self._opened.settings.home)}

    def _remember(self, asked: Asked, now: datetime) -> None:
        payload = {
            "book": self._opened.book.name,
            "close_date": str(asked.day),
            "reason": asked.reason,
            "preview": asked.preview,
        }
        with closing(connect(self._opened.url)) as connection, typed_errors(), connection.transaction():
            runs.put_event(connection, f"eod.run.forced:{asked.day}:{iso_us(now)}", "eod.run.forced", payload)

    def _ended_steps(self, day: date, since: datetime, told: set[tuple[str, int, int]]) -> Iterator[Any]:
        with closing(connect(self._opened.url)) as connection, typed_errors():
            there = days.read(connection, day)
            found = runs.of_day(connection, day, there.version) if there else {}
        for run in sorted(found.values(), key=lambda one: one.finished_at):
            key = (run.step_name, run.version, run.attempt)
            if run.finished_at >= since and key not in told:
                told.add(key)
                yield self._messages.RunEODStatus(
                    date=str(day), version=run.version, step=run.step_name, status=run.status, message=run.error or ""
                )

    def _last(self, asked: Asked, code: int, out: str, talk: str) -> Any:
        with closing(connect(self._opened.url)) as connection, typed_errors():
            there = days.read(connection, asked.day)
        message = "" if code == 0 and not asked.preview else _why(out, talk)
        return self._messages.RunEODStatus(
            date=str(asked.day),
            version=there.version if there else 0,
            status=there.state if there else "not open",
            message=f"preview: {message}" if asked.preview else message,
            done=True,
            exit_code=1 if asked.preview else code,
        )


def _why(out: str, talk: str) -> str:
    try:
        said = json.loads(out)
    except ValueError:
        return talk[-2000:]
    plan = said.get("plan")
    if plan:
        return "; ".join(f"{one['close_date']} is {one['state']}: would {one['would']}" for one in plan)
    return str(said.get("what") or talk[-2000:])


def serve(opened: OpenBook, *, address: str, port: int, certificate: tuple[bytes, bytes] | None) -> tuple[Any, int]:
    """Start the service of a book.

    Args:
        opened: the book.
        address: where it listens; elsewhere than on this machine only with a certificate.
        port: 0 for any.
        certificate: (private key, chain), PEM.

    Returns:
        The running server, and its port.

    Raises:
        UsageError: it would listen to others without a certificate.
    """
    import concurrent.futures

    import grpc

    if certificate is None and address not in ("127.0.0.1", "::1", "localhost"):
        raise UsageError(
            f"{address} can be reached by others, and there is no certificate",
            rule="the token is never sent in the clear",
            next_step="give --tls-key and --tls-cert, or listen on 127.0.0.1",
        )
    _, services = messages_and_services()
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(max_workers=8),
        options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES)],
    )
    services.add_AdminServiceServicer_to_server(AdminService(opened), server)
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if certificate is None:
        bound = server.add_insecure_port(place)
    else:
        bound = server.add_secure_port(place, grpc.ssl_server_credentials([certificate]))
    server.start()
    return server, bound
