"""`compline up`, `down`, `doctor`, `dev`: the servers of this machine.

What belongs here: the commands. What does not: starting a server (see `pipelines.local`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Annotated

import typer

from engine.errors import UsageError
from engine.store import migrate
from engine.store.connect import typed_errors
from pipelines import dagster_home
from pipelines.books import BookFiles, create_book, known_books, read_card
from pipelines.cli.doctor import doctor
from pipelines.cli.options import BookName, DryRun, Json, settings_of
from pipelines.cli.output import errors, put_dry_run, put_json, put_table, talk
from pipelines.local.servers import ensure_servers, stop_servers
from pipelines.settings import repo_root


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command()(up)
    app.command()(down)
    app.command()(dev)
    app.command()(doctor)


def up(book: BookName = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Start the servers and bring every book's schema to this version."""
    with errors(as_json=as_json):
        settings = settings_of(book)
        names = sorted({settings.book, *known_books(settings.home)})
        if dry_run:
            put_dry_run(f"would start the servers and migrate: {', '.join(names)}", as_json=as_json)
            return
        done = []
        for name in names:
            card = read_card(BookFiles(settings.home, name))
            with typed_errors():
                if card is not None:
                    servers = create_book(settings, card, talk=talk).servers
                else:
                    servers = ensure_servers(settings, talk=talk, book=name)
                    migrate.upgrade(servers.admin.dsn())
            done.append({"book": name, "database": servers.app.shown(), "schema": migrate.head()})
        if as_json:
            put_json({"books": done})
        else:
            put_table(["book", "database", "schema"], [list(row.values()) for row in done])


def down(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Stop the embedded servers; what they hold stays."""
    with errors(as_json=as_json):
        settings = settings_of()
        if dry_run:
            put_dry_run(f"would stop the embedded servers of {settings.home}", as_json=as_json)
            return
        stopped = stop_servers(settings.home)
        if as_json:
            put_json({"stopped": stopped})
        else:
            talk(f"stopped {' and '.join(stopped)}" if stopped else "no embedded server was running")


def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI, on 127.0.0.1.")] = 3000,
    book: BookName = None,
) -> None:
    """Open the Dagster UI with its daemon, one code location a book; Ctrl-C ends it."""
    with errors():
        _require_free(port)
        settings = settings_of(book)
        servers = ensure_servers(settings, talk=talk)
        folder = dagster_home.prepare(settings, servers)
        if not known_books(settings.home):
            talk("there is no book yet: run `make close` first to see something")
        workspace = dagster_home.write_workspace(settings, folder)
        talk(f"Dagster UI on http://127.0.0.1:{port}")
    sys.stdout.flush()
    # A shell starts background jobs with SIGINT ignored, which a program would inherit and never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(repo_root())
    program = os.path.join(os.path.dirname(sys.executable), "dagster")
    os.execv(program, [program, "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)])


def _require_free(port: int) -> None:
    """Refuse a port that something listens on.

    Raises:
        UsageError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}",
                next_step="end what listens there, or choose another: make dev ARGS='--port 3001'",
            ) from None
