"""`compline evidence`: the pack of a sealed day written, checked, and computed again from the order journal.

What belongs here: the commands. What does not: what a pack holds (see `engine.steps.evidence_packs`).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from engine.clock import parse_close_date
from engine.errors import UncheckedError
from engine.reserves.pack import pack_name, write_pack
from engine.reserves.verifier import compline_verify
from engine.steps.evidence_packs import pack_files
from engine.store import seals
from engine.store.connect import connect, typed_errors
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, talk
from pipelines.evidence import reading_context

app = typer.Typer(help="Evidence of sealed days.", no_args_is_help=True)


@app.callback()
def _evidence() -> None:
    """Evidence of sealed days."""


@app.command()
def pack(
    date: Annotated[str, typer.Argument(help="Close date, sealed.")],
    version: Annotated[int | None, typer.Option("--version", help="Which version; default the newest sealed.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder or file; default the date's evidence folder.")] = None,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a sealed date's evidence pack again: the same bytes every time."""
    import hashlib

    with errors(as_json=as_json):
        there = opened(book)
        day = parse_close_date(date)
        context = reading_context(there, day)
        with closing(connect(there.url)) as connection, typed_errors():
            seal = seals.read(connection, day, version)
            files = pack_files(connection, context, seal.version if seal else version or 1)
            sealed = seal.version if seal else 1
        data = write_pack(files)
        name = pack_name(str(day), sealed)
        folder = there.files.evidence_dir / there.book.name / f"{day}-v{sealed}"
        target = folder / name if to is None else to / name if to.is_dir() else to
        if not dry_run:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            except OSError as error:
                raise UncheckedError(
                    f"{target} cannot be written: {error.strerror}", next_step="make room there"
                ) from None
        result = {
            "file": str(target),
            "sha256": hashlib.sha256(data).hexdigest(),
            "files": len(files),
            "bytes": len(data),
        }
        if as_json:
            put_json(result | {"written": not dry_run})
        else:
            talk(f"{'would write' if dry_run else 'wrote'} {target}: {len(files)} files, SHA-256 {result['sha256']}")


@app.command()
def verify(
    pack_file: Annotated[Path, typer.Argument(metavar="ZIP", help="The pack.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="The exchange's published key file, from elsewhere.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A checkpoint from elsewhere; several may be given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a pack with the outsider's verifier: exit 0 valid and anchored, 1 invalid, 2 not checked to the end."""
    given = ["evidence", str(pack_file)]
    given += ["--key", str(key)] if key else []
    given += ["--checkpoint", *map(str, checkpoint)] if checkpoint else []
    raise typer.Exit(compline_verify.main([*given, *(["--json"] if as_json else [])]))
