"""`compline keys`: the secrets that a book seals with.

What belongs here: the commands. What does not: keys (see `engine.reserves`, `pipelines.key_store`).
"""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from engine.errors import ConfigError
from engine.reserves.key_file import published_keys_text
from engine.reserves.rotation import fingerprint_of
from engine.reserves.signing import key_id
from engine.store.connect import connect, typed_errors
from pipelines.cli.options import BookName, DryRun, Json, opened, settings_of
from pipelines.cli.output import errors, out, put_dry_run, put_json, talk
from pipelines.key_store import init_keys, key_path, load_keys_file, rotate_keys

app = typer.Typer(help="Keys of manifests, checkpoints and leaves.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    """Keys of manifests, checkpoints and leaves."""


@app.command()
def init(book: BookName = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Make a book's keys in a file that only this user can read; an existing file is never replaced."""
    with errors(as_json=as_json):
        settings = settings_of(book)
        path = key_path(settings, settings.book)
        if dry_run:
            if path.exists():
                raise ConfigError(f"{path} exists", rule="keys are never replaced")
            put_dry_run(f"would write {path}", as_json=as_json)
            return
        init_keys(settings, settings.book)
        keys = load_keys_file(path)
        result = {"book": settings.book, "file": str(path), "key_id": key_id(keys.manifest_signer().public_key)}
        if as_json:
            put_json(result)
        else:
            talk(f"keys of book {settings.book} are in {path} (mode 0600), key id {result['key_id']}")
            talk("back the file up: proofs and seals of this book depend on it")


@app.command()
def rotate(
    book: BookName = None,
    new_master: Annotated[
        bool, typer.Option("--new-master", help="Change the master key too: users then need new keys of their own.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put new signing keys in force, by a record that the old and the new keys sign; the old file is kept."""
    with errors(as_json=as_json):
        there = opened(book)
        before = load_keys_file(key_path(there.settings, there.book.name))
        if dry_run:
            put_dry_run(f"would replace key {key_id(before.manifest_signer().public_key)}", as_json=as_json)
            return
        with closing(connect(there.url)) as connection, typed_errors():
            path = rotate_keys(there.settings, there.card, connection, new_master=new_master)
        keys = load_keys_file(path)
        published = published_keys_text(keys, there.book.exchange)
        result = {
            "book": there.book.name,
            "file": str(path),
            "key_id": key_id(keys.manifest_signer().public_key),
            "before": key_id(before.manifest_signer().public_key),
            "fingerprint": fingerprint_of(published),
            "published_keys": published,
        }
        if as_json:
            put_json(result)
        else:
            talk(f"key {result['before']} signed its last manifest; {result['key_id']} signs from now on")
            talk("publish the new key file, and back both files up: old proofs need the old keys")
            out.print(published, end="", markup=False)
