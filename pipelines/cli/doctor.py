"""`compline doctor`: is everything here that a close needs.

What belongs here: the checks and their table. Each says ok, failed or unknown, and what to do.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import typer

from engine.errors import ComplineError, UncheckedError
from engine.store import migrate
from engine.store.connect import connect, typed_errors
from pipelines.books import BookFiles, known_books, read_card
from pipelines.cli.options import Json, settings_of
from pipelines.cli.output import put_json, put_table
from pipelines.key_store import load_keys
from pipelines.local.nats import nats_status
from pipelines.local.postgres import postgres_status
from pipelines.local.urls import resolve_servers
from pipelines.settings import Settings

ROOM_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, `failed` or `unknown`."""

    what: str
    verdict: str
    detail: str


def doctor(as_json: Json = False) -> None:
    """Look at everything that a close needs and say what is wrong with it."""
    findings = list(_findings())
    if as_json:
        put_json({"findings": [vars(f) for f in findings]})
    else:
        put_table(["what", "verdict", "detail"], [[f.what, f.verdict, f.detail] for f in findings])
    verdicts = {f.verdict for f in findings}
    code = 1 if "failed" in verdicts else 2 if "unknown" in verdicts else 0
    if code:
        raise typer.Exit(code)


def _findings() -> Iterator[Finding]:
    yield Finding("python", "ok", sys.version.split()[0])
    try:
        settings = settings_of()
    except ComplineError as error:
        yield Finding("settings", "failed", str(error))
        return
    yield _check("room", lambda: _room(settings))
    if settings.embedded_postgres:
        pg = postgres_status(settings.home)
        where = f"{_runs(pg.running, pg.host, pg.port)}, data in {pg.data_dir}"
        yield Finding("embedded Postgres", "ok", where + (" (its user cannot enter the home)" if pg.outside else ""))
    if settings.nats_url is None:
        broker = nats_status(settings.home)
        where = f"{_runs(broker.running, broker.host, broker.port)}, data in {broker.store}"
        yield Finding("embedded NATS", "ok", where)
    books = known_books(settings.home)
    if not books:
        yield Finding("books", "ok", "none yet: make close")
    for name in books:
        yield _check(f"book {name}", lambda name=name: _book(settings, name))  # type: ignore[misc]
        yield _check(f"keys of {name}", lambda name=name: _keys(settings, name))  # type: ignore[misc]


def _runs(running: bool, host: str, port: int | None) -> str:
    return f"running on {host}:{port}" if running else "stopped"


def _check(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except UncheckedError as error:
        return Finding(what, "unknown", str(error))
    except ComplineError as error:
        return Finding(what, "failed", str(error))


def _room(settings: Settings) -> str:
    place = settings.home if settings.home.exists() else settings.home.parent
    free = shutil.disk_usage(place).free
    if free < ROOM_BYTES:
        raise ComplineError(f"{place} has {free >> 20} MiB free", next_step="make room: a close writes there")
    return f"{free >> 30} GiB free at {place}"


def _book(settings: Settings, name: str) -> str:
    servers = resolve_servers(settings, name)
    with closing(connect(servers.app.dsn())) as connection, typed_errors():
        version = connection.info.server_version
        if version < 170000:
            raise ComplineError(
                f"Postgres {version // 10000} is too old", rule="transaction_timeout needs Postgres 17 or newer"
            )
        migrate.require_current(connection)
    return f"{servers.app.shown()}, Postgres {version // 10000}, schema {migrate.head()}"


def _keys(settings: Settings, name: str) -> str:
    card = read_card(BookFiles(settings.home, name))
    assert card is not None
    return "derived from the seed: public, for the demo only" if load_keys(settings, card).public else "private"
