"""`compline reserves prove|history|user-key|shard|verify`: proofs for customers, and checking them as they do.

What belongs here: the commands. What does not: proofs (see `engine.steps.inclusion_proofs`) and their verification (see
`engine/reserves/verifier/compline_verify.py`, which needs none of this).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.clock import parse_close_date
from engine.errors import InputError, UsageError
from engine.reserves.keys import KeyRing
from engine.reserves.proof import proof_text
from engine.reserves.shard import shard_id
from engine.reserves.shard_index import INDEX, open_index, shard_file
from engine.reserves.verifier import compline_verify
from engine.steps import inclusion_proofs
from engine.store import user_keys
from engine.store.connect import Connection, connect, typed_errors
from pipelines.books import OpenBook
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_dry_run, put_json, talk
from pipelines.evidence import reading_context
from pipelines.key_store import key_path, load_keys, load_keys_file

Account = Annotated[str, typer.Argument(help="An account, as printed on its statement page.")]
CloseDay = Annotated[str, typer.Argument(metavar="DATE", help="A sealed close date, YYYY-MM-DD.")]
Version = Annotated[int | None, typer.Option("--version", help="A sealed version of the date; default the newest.")]
Folder = Annotated[Path, typer.Option("--out", help="Folder to write to; default this one.")]


def proof_of(
    connection: Connection,
    there: OpenBook,
    day: date,
    account: str,
    *,
    version: int | None = None,
    newest: bool = False,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """One account's proof of a sealed date, made with the keys that the date was sealed with."""
    context = reading_context(there, day)
    seal, _, _ = inclusion_proofs.seal_of(connection, context, version)
    kept = key_path(there.settings, there.book.name)
    kept = kept.with_name(f"{kept.name}.{seal.key_id}")
    if kept.exists():
        context = replace(context, load_keys=lambda: load_keys_file(kept))
    return inclusion_proofs.prove(
        connection, context, account, version=seal.version, newest=newest, may_be_empty=may_be_empty
    )


@contextmanager
def reading(there: OpenBook) -> Iterator[Connection]:
    """A connection in one read-only transaction."""
    with closing(connect(there.url)) as connection, typed_errors(), connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        yield connection


def prove(
    account: Account,
    close_date: CloseDay,
    version: Version = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Prove it under the log's newest checkpoint, not under the day's own.")
    ] = False,
    out: Folder = Path(),
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write an account's proof file of a sealed date, `proof-<account>.json`."""
    with errors(as_json=as_json):
        there = opened(book)
        day = parse_close_date(close_date)
        with reading(there) as connection:
            proof = proof_of(connection, there, day, account, version=version, newest=newest)
        path = out / f"proof-{account}.json"
        _write({path: proof_text(proof)}, dry_run)
        _say({"file": str(path), "statement": proof["statement"], "log": _place(proof)}, as_json, f"wrote {path}")


def history(
    account: Account,
    first: Annotated[str, typer.Argument(metavar="FROM", help="First close date.")],
    last: Annotated[str, typer.Argument(metavar="TO", help="Last close date.")],
    out: Folder = Path(),
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write an account's proof files of every date and version in a range; a date that is not sealed fails it."""
    with errors(as_json=as_json):
        start, end = parse_close_date(first), parse_close_date(last)
        if end < start:
            raise UsageError(f"{last} lies before {first}", next_step="name the earlier date first")
        there = opened(book)
        folder, files = out / f"history-{account}", {}
        with reading(there) as connection:
            for n in range((end - start).days + 1):
                context = reading_context(there, start + timedelta(days=n))
                for version in inclusion_proofs.sealed_versions(connection, context):
                    day = context.close_date
                    proof = proof_of(connection, there, day, account, version=version, newest=True, may_be_empty=True)
                    files[folder / f"proof-{context.close_date}-v{version}.json"] = proof_text(proof)
        if not any(json.loads(text)["statement"] for text in files.values()):
            raise InputError(f"account {account} has no balance on any of these dates", next_step="check its name")
        _write(files, dry_run)
        _say({"folder": str(folder), "files": len(files)}, as_json, f"wrote {len(files)} proofs to {folder}")


def user_key(
    account: Account,
    again: Annotated[
        str | None, typer.Option("--again", metavar="REASON", help="Print it once more, and why; it is recorded.")
    ] = None,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Print the account's own key, once: for its statement page. It opens the account's record in every shard."""
    with errors(as_json=as_json):
        there = opened(book)
        ring = KeyRing(load_keys(there.settings, there.card).reserve, there.book.exchange)
        with closing(connect(there.url)) as connection, typed_errors(), connection.transaction(force_rollback=dry_run):
            nth = user_keys.give(connection, account, ring.key_epoch, again)
        if dry_run:
            put_dry_run(
                f"would print the key of {account}, key epoch {ring.key_epoch}, for time {nth}", as_json=as_json
            )
            return
        key = ring.user_key(account).hex()
        talk(f"the key of {account}, key epoch {ring.key_epoch}: whoever has it can read this account's proofs")
        put_json({"account": account, "key_epoch": ring.key_epoch, "user_key": key}) if as_json else typer.echo(key)


def shard(
    account: Account, close_date: CloseDay, version: Version = None, book: BookName = None, as_json: Json = False
) -> None:
    """Say which shard holds an account's sealed record: serve the whole file, and nobody learns whose was wanted."""
    with errors(as_json=as_json):
        there = opened(book)
        context = reading_context(there, parse_close_date(close_date))
        with reading(there) as connection:
            seal, _, _ = inclusion_proofs.seal_of(connection, context, version)
        folder = inclusion_proofs.shards_folder(context, seal.version)
        if open_index(folder) is None:
            raise InputError(f"{folder} is not whole", next_step=f"compline close run {close_date}")
        index = json.loads((folder / INDEX).read_bytes())
        path = folder / shard_file(shard_id(account, index["digits"]))
        facts = {"shard": str(path), "digits": index["digits"], "record_bytes": index["record_bytes"]}
        _say({**facts, "manifest": str(folder.parent / "manifest.json")}, as_json, str(path), stdout=True)


def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A proof file, a folder of them, or an evidence pack.")],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A checkpoint of the log, from elsewhere; may be repeated."),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The exchange's published keys, from elsewhere.")] = None,
    as_json: Json = False,
) -> None:
    """Check a file as an outsider does: exit 0 valid, 1 invalid, 2 not checked to the end (or not anchored)."""
    kind = "history" if path.is_dir() else "evidence" if path.suffix == ".zip" else "proof"
    arguments = [kind, str(path)]
    arguments += [word for one in checkpoint or [] for word in ("--checkpoint", str(one))]
    arguments += ["--key", str(key)] if key else []
    raise typer.Exit(compline_verify.main([*arguments, *(["--json"] if as_json else [])]))


def register(app: typer.Typer) -> None:
    """Add the commands to `compline reserves`."""
    for name, command in (
        ("prove", prove),
        ("history", history),
        ("user-key", user_key),
        ("shard", shard),
        ("verify", verify),
    ):
        app.command(name)(command)


def _place(proof: dict[str, Any]) -> dict[str, Any]:
    return {key: proof["log"][key] for key in ("index", "size")}


def _write(files: dict[Path, str], dry_run: bool) -> None:
    for path, text in files.items():
        if dry_run:
            talk(f"would write {path} ({len(text)} bytes)")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)


def _say(facts: dict[str, Any], as_json: bool, line: str, *, stdout: bool = False) -> None:
    say: Callable[[str], None] = typer.echo if stdout else talk
    put_json(facts) if as_json else say(line)
