"""`compline evidence`: the pack of a sealed day written, checked, and computed again from the order journal.

What belongs here: the commands. What does not: what a pack holds (see `engine.steps.evidence_packs`).
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.clock import parse_close_date
from engine.errors import GateError, UncheckedError
from engine.reserves.pack import pack_name, write_pack
from engine.reserves.verifier import compline_verify
from engine.steps.evidence_packs import pack_files
from engine.steps.replay_audit import Audit, audit
from engine.store import seals
from engine.store.connect import connect, typed_errors
from pipelines.cli.options import BookName, DryRun, Json, opened, settings_of
from pipelines.cli.output import errors, put_json, put_table, talk
from pipelines.cli.reserves import read_small
from pipelines.evidence import packs_up_to, reading_context
from pipelines.key_store import load_keys_file

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


@app.command()
def replay(
    date: Annotated[str, typer.Argument(help="Close date.")],
    journal: Annotated[Path, typer.Argument(help="The order journal, or the folder that it lies in.")],
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="A pack, or a folder of packs; default this machine's evidence.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The published key file, from elsewhere.")] = None,
    master: Annotated[
        Path | None, typer.Option("--master", help="The secret key file: the roots are computed too.")
    ] = None,
    dump: Annotated[
        list[Path] | None, typer.Option("--dump", help="An auditor's dump of a tree; several may be given.")
    ] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Compute a sealed date again from the order journal, with no database, and name the first difference."""
    with errors(as_json=as_json):
        day = parse_close_date(date)
        settings = settings_of(book)
        packs = packs_up_to(evidence or settings.home / "evidence" / settings.book, day)
        dumps = [_dumped(path) for path in dump or []]
        with tempfile.TemporaryDirectory() as scratch:
            found = audit(
                journal,
                packs,
                published_keys=read_small(key).decode("utf-8", "replace") if key else None,
                master=load_keys_file(master).reserve if master else None,
                dumps=dumps,
                scratch=Path(scratch) / "trees",
            )
        _put_audit(found, as_json)
        if found.first_difference is not None:
            raise typer.Exit(1)


def _dumped(path: Path) -> dict[str, Any]:
    try:
        return dict(compline_verify.check_dump(str(path))[0])
    except compline_verify.ProofError as error:
        raise GateError(
            f"{path}: {error}", rule="a dump's leaves climb to the root and total of its first line"
        ) from None


def _put_audit(found: Audit, as_json: bool) -> None:
    different = found.first_difference
    if as_json:
        put_json(
            {
                "close_date": found.close_date,
                "version": found.version,
                "first_difference": vars(different) if different else None,
                "compared": [{**vars(one), "equal": one.equal} for one in found.comparisons],
                "notes": found.notes,
            }
        )
        return
    put_table(
        ["what", "computed here", "sealed", ""],
        [
            [one.what, one.here, one.sealed if not one.equal else "", "pass" if one.equal else "fail"]
            for one in found.comparisons
        ],
    )
    for note in found.notes:
        talk(note)
    if different is None:
        talk(f"{found.close_date} v{found.version}: the journal and the evidence give what was sealed")
    else:
        talk(f"first difference: {different.what}: here {different.here}, sealed {different.sealed}")
