"""`compline admin serve`: the admin service over gRPC.

What belongs here: the command. What does not: the service (see `pipelines.admin`).
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import UsageError
from pipelines.admin.service import TOKEN_SECRET, serve
from pipelines.cli.options import BookName, Json, opened
from pipelines.cli.output import errors, put_json, talk

app = typer.Typer(help="The close for other programs.", no_args_is_help=True)


@app.command("serve")
def serve_admin(
    port: Annotated[int, typer.Option(help="Port; 0 for any.", min=0, max=65535)] = 50551,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    tls_key: Annotated[Path | None, typer.Option(help="Private key, PEM.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Serve AdminService.RunEOD(date, force, reason) over gRPC, with the status of each step as it ends."""
    with errors(as_json=as_json):
        if (tls_key is None) != (tls_cert is None):
            raise UsageError("a certificate is a key and a chain", next_step="give --tls-key and --tls-cert")
        there = opened(book)
        pair = (tls_key.read_bytes(), tls_cert.read_bytes()) if tls_key and tls_cert else None
        stopped = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda number, frame: stopped.set())
        server, bound = serve(there, address=address, port=port, certificate=pair)
        if as_json:
            put_json({"book": there.book.name, "address": address, "port": bound})
        talk(
            f"AdminService of {there.book.name} on {address}:{bound};"
            f" token: COMPLINE_ADMIN_TOKEN, or secrets/{TOKEN_SECRET}"
        )
        stopped.wait()
        server.stop(grace=5).wait()
